-- What has a name and is said in JSON, such as fleets.
CREATE TABLE objects (
    kind       TEXT    NOT NULL CHECK (length(CAST(kind AS BLOB)) BETWEEN 1 AND 64),
    name       TEXT    NOT NULL CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 256),
    definition TEXT    NOT NULL
               CHECK (json_valid(definition) AND json_type(definition) = 'object'),
    -- That of the last change of this row. The triggers write it.
    revision   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, name)
) STRICT;

-- At which revision something of a kind changed last. There are few of each, so
-- these are read whole then.
CREATE TABLE object_changes (
    kind     TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL
) STRICT;

-- As `touched`: inserting here says that something of a kind changed.
CREATE VIEW objects_touched AS SELECT kind FROM object_changes;

CREATE TRIGGER objects_touched_insert INSTEAD OF INSERT ON objects_touched BEGIN
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END;
    DELETE FROM object_changes WHERE kind = NEW.kind;
    INSERT INTO object_changes SELECT NEW.kind, value FROM revision;
END;

CREATE TRIGGER objects_insert AFTER INSERT ON objects BEGIN
    INSERT INTO objects_touched VALUES (NEW.kind);
    UPDATE objects SET revision = (SELECT value FROM revision)
     WHERE kind = NEW.kind AND name = NEW.name;
END;

CREATE TRIGGER objects_update AFTER UPDATE OF kind, name, definition ON objects BEGIN
    INSERT INTO objects_touched SELECT OLD.kind WHERE OLD.kind <> NEW.kind;
    INSERT INTO objects_touched VALUES (NEW.kind);
    UPDATE objects SET revision = (SELECT value FROM revision)
     WHERE kind = NEW.kind AND name = NEW.name;
END;

CREATE TRIGGER objects_delete AFTER DELETE ON objects BEGIN
    INSERT INTO objects_touched VALUES (OLD.kind);
END;
