-- The changes of a batch have one revision. Whoever begins one, in a transaction,
-- sets this to 1; the first change takes the next revision and makes it 2; and
-- before the transaction ends it is 0 again, so that nobody else sees another.
ALTER TABLE revision ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;

-- Resources as somebody gave them, encoded: a layer over what the services of
-- the same scope become.
-- (`octet_length` is newer than the `sqlite3` that many have at hand.)
CREATE TABLE raw_resources (
    scope    TEXT NOT NULL CHECK (length(CAST(scope AS BLOB)) BETWEEN 1 AND 256),
    type_url TEXT NOT NULL CHECK (length(CAST(type_url AS BLOB)) BETWEEN 1 AND 512),
    name     TEXT NOT NULL CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 4096 AND name <> '*'),
    -- The writer's own; without one, clients see the content's hash.
    version  TEXT CHECK (length(CAST(version AS BLOB)) BETWEEN 1 AND 256),
    value    BLOB NOT NULL,
    PRIMARY KEY (scope, type_url, name)
) STRICT;

-- Scopes that ever had a transaction, and at which revision they became known.
-- A row stays when the last resource goes.
CREATE TABLE raw_scopes (
    scope    TEXT    PRIMARY KEY CHECK (length(CAST(scope AS BLOB)) BETWEEN 1 AND 256),
    revision INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX raw_scopes_by_revision ON raw_scopes (revision);

-- The last change of each resource that is there, and of those that went of
-- late; and what the transaction was called, if it was one that has a name.
CREATE TABLE raw_changes (
    scope    TEXT    NOT NULL,
    type_url TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    gone     INTEGER NOT NULL,
    label    TEXT,
    PRIMARY KEY (scope, type_url, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX raw_changes_by_revision ON raw_changes (revision);
CREATE INDEX raw_changes_gone ON raw_changes (revision) WHERE gone;

CREATE TRIGGER raw_scopes_insert AFTER INSERT ON raw_scopes BEGIN
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END;
    UPDATE raw_scopes SET revision = (SELECT value FROM revision) WHERE scope = NEW.scope;
END;

-- As `touched`: inserting here says that a resource changed.
CREATE VIEW raw_touched AS SELECT scope, type_url, name FROM raw_changes;

CREATE TRIGGER raw_touched_insert INSTEAD OF INSERT ON raw_touched BEGIN
    INSERT INTO raw_scopes (scope) SELECT NEW.scope
     WHERE NOT EXISTS (SELECT 1 FROM raw_scopes WHERE scope = NEW.scope);
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END;
    DELETE FROM raw_changes
     WHERE scope = NEW.scope AND type_url = NEW.type_url AND name = NEW.name;
    DELETE FROM raw_changes WHERE gone AND revision <= (SELECT value - 10000 FROM revision);
    INSERT INTO raw_changes
        SELECT NEW.scope, NEW.type_url, NEW.name, value,
               NOT EXISTS (SELECT 1 FROM raw_resources WHERE scope = NEW.scope
                           AND type_url = NEW.type_url AND name = NEW.name), NULL
          FROM revision;
END;

-- A row that `OR REPLACE` pushes out has the key of the one that comes.
CREATE TRIGGER raw_resources_insert AFTER INSERT ON raw_resources BEGIN
    INSERT INTO raw_touched VALUES (NEW.scope, NEW.type_url, NEW.name);
END;

CREATE TRIGGER raw_resources_update AFTER UPDATE ON raw_resources BEGIN
    INSERT INTO raw_touched VALUES (NEW.scope, NEW.type_url, NEW.name);
    INSERT INTO raw_touched SELECT OLD.scope, OLD.type_url, OLD.name
     WHERE OLD.scope <> NEW.scope OR OLD.type_url <> NEW.type_url OR OLD.name <> NEW.name;
END;

CREATE TRIGGER raw_resources_delete AFTER DELETE ON raw_resources BEGIN
    INSERT INTO raw_touched VALUES (OLD.scope, OLD.type_url, OLD.name);
END;
