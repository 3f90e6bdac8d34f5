-- What is served, and who sees it.
CREATE TABLE services (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    cluster_id        INTEGER NOT NULL DEFAULT 1 CHECK (cluster_id >= 1),
    listener_port     INTEGER NOT NULL CHECK (listener_port BETWEEN 1 AND 65535),
    upstream_host     TEXT    NOT NULL CHECK (upstream_host <> ''),
    upstream_port     INTEGER NOT NULL CHECK (upstream_port BETWEEN 1 AND 65535),
    protocol          TEXT    NOT NULL DEFAULT 'http' CHECK (protocol IN ('http', 'tcp')),
    health_check_path TEXT,
    -- A JSON array of strings.
    domains           TEXT    NOT NULL DEFAULT '["*"]'
                      CHECK (json_valid(domains) AND json_type(domains) = 'array'),
    prefix            TEXT    NOT NULL DEFAULT '/'
) STRICT;

CREATE INDEX services_by_port ON services (cluster_id, listener_port);

-- The one counter. Each change takes the next number.
CREATE TABLE revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    value    INTEGER NOT NULL
) STRICT;
INSERT INTO revision VALUES (1, 0);

-- Fleets that ever had a service. A row stays when the last service goes: it
-- is what tells an empty fleet from an unknown one.
CREATE TABLE scopes (cluster_id INTEGER PRIMARY KEY) STRICT;

-- The newest revision of each key that changed of late; keys only.
CREATE TABLE changes (
    cluster_id INTEGER NOT NULL,
    service_id INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, service_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX changes_by_revision ON changes (revision);

-- `INSERT INTO touched` is how the triggers below say that a key changed.
-- (No upserts here: within a trigger, the conflict clause of the outer
-- statement replaces the inner one.)
CREATE VIEW touched AS SELECT cluster_id, service_id FROM changes;

CREATE TRIGGER touched_insert INSTEAD OF INSERT ON touched BEGIN
    UPDATE revision SET value = value + 1;
    DELETE FROM changes
     WHERE (cluster_id = NEW.cluster_id AND service_id = NEW.service_id)
        OR revision <= (SELECT value - 10000 FROM revision);
    INSERT INTO changes SELECT NEW.cluster_id, NEW.service_id, value FROM revision;
    INSERT INTO scopes SELECT NEW.cluster_id
     WHERE NOT EXISTS (SELECT 1 FROM scopes WHERE cluster_id = NEW.cluster_id);
END;

CREATE TRIGGER services_insert AFTER INSERT ON services BEGIN
    INSERT INTO touched VALUES (NEW.cluster_id, NEW.id);
END;

CREATE TRIGGER services_update AFTER UPDATE ON services BEGIN
    INSERT INTO touched VALUES (NEW.cluster_id, NEW.id);
    INSERT INTO touched SELECT OLD.cluster_id, OLD.id
     WHERE OLD.cluster_id <> NEW.cluster_id OR OLD.id <> NEW.id;
END;

CREATE TRIGGER services_delete AFTER DELETE ON services BEGIN
    INSERT INTO touched VALUES (OLD.cluster_id, OLD.id);
END;

-- A row that `INSERT OR REPLACE` or `UPDATE OR REPLACE` pushes out fires no
-- DELETE trigger.
CREATE TRIGGER services_insert_replace BEFORE INSERT ON services BEGIN
    INSERT INTO touched SELECT cluster_id, id FROM services
     WHERE id = NEW.id OR name = NEW.name;
END;

CREATE TRIGGER services_update_replace BEFORE UPDATE ON services BEGIN
    INSERT INTO touched SELECT cluster_id, id FROM services
     WHERE id <> OLD.id AND (id = NEW.id OR name = NEW.name);
END;
