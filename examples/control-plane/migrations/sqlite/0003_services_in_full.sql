-- All that a service may say of itself. SQLite cannot change a CHECK, so the table
-- is made anew, with what is in it.
CREATE TABLE services_new (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    cluster_id        INTEGER NOT NULL DEFAULT 1 CHECK (cluster_id >= 1),
    listener_port     INTEGER NOT NULL CHECK (listener_port BETWEEN 1 AND 65535),
    upstream_host     TEXT    NOT NULL CHECK (upstream_host <> ''),
    upstream_port     INTEGER NOT NULL CHECK (upstream_port BETWEEN 1 AND 65535),
    protocol          TEXT    NOT NULL DEFAULT 'http'
                      CHECK (protocol IN ('http', 'https', 'grpc', 'tcp')),
    health_check_path TEXT,
    -- A JSON array of strings.
    domains           TEXT    NOT NULL DEFAULT '["*"]'
                      CHECK (json_valid(domains) AND json_type(domains) = 'array'),
    prefix            TEXT    NOT NULL DEFAULT '/',
    -- A JSON array of {"host", "port", "weight"}: if there is one in it, these are
    -- what counts, and not `upstream_host` and `upstream_port`.
    upstreams         TEXT    NOT NULL DEFAULT '[]'
                      CHECK (json_valid(upstreams) AND json_type(upstreams) = 'array'),
    timeout_ms        INTEGER CHECK (timeout_ms >= 0),
    connect_timeout_ms INTEGER NOT NULL DEFAULT 1000 CHECK (connect_timeout_ms >= 1),
    retries           INTEGER NOT NULL DEFAULT 0 CHECK (retries >= 0),
    http2             INTEGER NOT NULL DEFAULT 0 CHECK (http2 IN (0, 1)),
    websocket         INTEGER NOT NULL DEFAULT 0 CHECK (websocket IN (0, 1)),
    -- NULL: as the protocol has it.
    upstream_tls      INTEGER CHECK (upstream_tls IN (0, 1)),
    tls_verify        INTEGER NOT NULL DEFAULT 1 CHECK (tls_verify IN (0, 1)),
    tls_sni           TEXT,
    tls_ca            TEXT,
    health_check_interval_ms INTEGER NOT NULL DEFAULT 5000
                      CHECK (health_check_interval_ms >= 1),
    is_active         INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    collection        TEXT,
    -- The name of a stored one.
    certificate       TEXT,
    -- That of the last change of this row. The triggers write it.
    revision          INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO services_new (id, name, cluster_id, listener_port, upstream_host, upstream_port,
                          protocol, health_check_path, domains, prefix, revision)
    SELECT id, name, cluster_id, listener_port, upstream_host, upstream_port,
           protocol, health_check_path, domains, prefix,
           coalesce((SELECT max(c.revision) FROM changes c WHERE c.service_id = s.id), 0)
      FROM services s;

-- No id is used twice, though the last one may be gone.
DELETE FROM sqlite_sequence WHERE name = 'services_new';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'services_new', seq FROM sqlite_sequence WHERE name = 'services';

DROP TABLE services;
ALTER TABLE services_new RENAME TO services;

CREATE INDEX services_by_port ON services (cluster_id, listener_port);

-- A batch is one revision for services as well.
DROP TRIGGER touched_insert;
CREATE TRIGGER touched_insert INSTEAD OF INSERT ON touched BEGIN
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END;
    DELETE FROM changes
     WHERE (cluster_id = NEW.cluster_id AND service_id = NEW.service_id)
        OR revision <= (SELECT value - 10000 FROM revision);
    INSERT INTO changes SELECT NEW.cluster_id, NEW.service_id, value FROM revision;
    INSERT INTO scopes SELECT NEW.cluster_id
     WHERE NOT EXISTS (SELECT 1 FROM scopes WHERE cluster_id = NEW.cluster_id);
END;

CREATE TRIGGER services_insert AFTER INSERT ON services BEGIN
    INSERT INTO touched VALUES (NEW.cluster_id, NEW.id);
    UPDATE services SET revision = (SELECT value FROM revision) WHERE id = NEW.id;
END;

-- All columns but the one that it writes.
CREATE TRIGGER services_update AFTER UPDATE OF
    id, name, cluster_id, listener_port, upstream_host, upstream_port, protocol,
    health_check_path, domains, prefix, upstreams, timeout_ms, connect_timeout_ms, retries,
    http2, websocket, upstream_tls, tls_verify, tls_sni, tls_ca, health_check_interval_ms,
    is_active, collection, certificate
ON services BEGIN
    INSERT INTO touched SELECT OLD.cluster_id, OLD.id
     WHERE OLD.cluster_id <> NEW.cluster_id OR OLD.id <> NEW.id;
    INSERT INTO touched VALUES (NEW.cluster_id, NEW.id);
    UPDATE services SET revision = (SELECT value FROM revision) WHERE id = NEW.id;
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
