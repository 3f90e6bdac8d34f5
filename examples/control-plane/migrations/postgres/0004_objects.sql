-- What has a name and is said in JSON, such as fleets.
CREATE TABLE objects (
    kind       TEXT   NOT NULL CHECK (octet_length(kind) BETWEEN 1 AND 64),
    name       TEXT   NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 256),
    definition TEXT   NOT NULL CHECK (jsonb_typeof(definition::jsonb) = 'object'),
    -- That of the last change of this row. The triggers write it.
    revision   BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, name)
);

-- At which revision something of a kind changed last. There are few of each, so
-- these are read whole then.
CREATE TABLE object_changes (
    kind     TEXT   PRIMARY KEY,
    revision BIGINT NOT NULL
);

CREATE FUNCTION objects_touch(touched TEXT) RETURNS BIGINT
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    now BIGINT;
BEGIN
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END
        RETURNING value INTO now;
    INSERT INTO object_changes VALUES (touched, now)
        ON CONFLICT (kind) DO UPDATE SET revision = excluded.revision;
    PERFORM pg_notify('deltaplane', 'object/' || touched);
    RETURN now;
END $$;

CREATE FUNCTION objects_written() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.kind <> NEW.kind THEN
        PERFORM objects_touch(OLD.kind);
    END IF;
    NEW.revision := objects_touch(NEW.kind);
    RETURN NEW;
END $$;

CREATE FUNCTION objects_gone() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM objects_touch(OLD.kind);
    ELSE -- TRUNCATE
        PERFORM objects_touch(kind) FROM (SELECT DISTINCT kind FROM objects) AS kinds;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER objects_lock BEFORE INSERT OR UPDATE OR DELETE ON objects
    FOR EACH STATEMENT EXECUTE FUNCTION services_lock();
CREATE TRIGGER objects_written BEFORE INSERT OR UPDATE ON objects
    FOR EACH ROW EXECUTE FUNCTION objects_written();
CREATE TRIGGER objects_gone AFTER DELETE ON objects
    FOR EACH ROW EXECUTE FUNCTION objects_gone();
CREATE TRIGGER objects_truncate BEFORE TRUNCATE ON objects
    FOR EACH STATEMENT EXECUTE FUNCTION objects_gone();

-- Only the triggers call it.
REVOKE EXECUTE ON FUNCTION objects_touch(TEXT) FROM PUBLIC;
