-- The changes of a batch have one revision. Whoever begins one, in a transaction,
-- sets this to 1; the first change takes the next revision and makes it 2; and
-- before the transaction ends it is 0 again, so that nobody else sees another.
ALTER TABLE revision ADD COLUMN batch INTEGER NOT NULL DEFAULT 0;

-- Resources as somebody gave them, encoded: a layer over what the services of
-- the same scope become.
CREATE TABLE raw_resources (
    scope    TEXT  NOT NULL CHECK (octet_length(scope) BETWEEN 1 AND 256),
    type_url TEXT  NOT NULL CHECK (octet_length(type_url) BETWEEN 1 AND 512),
    name     TEXT  NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 4096 AND name <> '*'),
    -- The writer's own; without one, clients see the content's hash.
    version  TEXT  CHECK (octet_length(version) BETWEEN 1 AND 256),
    value    BYTEA NOT NULL
);

-- A whole name may be too long for an index: its beginning is what is looked
-- for, and its digest is what makes it unique.
CREATE UNIQUE INDEX raw_resources_key
    ON raw_resources (scope, type_url, substr(name, 1, 256), md5(name));

-- Scopes that ever had a transaction, and at which revision they became known.
-- A row stays when the last resource goes.
CREATE TABLE raw_scopes (
    scope    TEXT   PRIMARY KEY CHECK (octet_length(scope) BETWEEN 1 AND 256),
    revision BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX raw_scopes_by_revision ON raw_scopes (revision);

-- The last change of each resource that is there, and of those that went of
-- late; and what the transaction was called, if it was one that has a name.
CREATE TABLE raw_changes (
    scope    TEXT    NOT NULL,
    type_url TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    revision BIGINT  NOT NULL,
    gone     BOOLEAN NOT NULL,
    label    TEXT
);

CREATE UNIQUE INDEX raw_changes_key
    ON raw_changes (scope, type_url, substr(name, 1, 256), md5(name));
CREATE INDEX raw_changes_by_revision ON raw_changes (revision);
CREATE INDEX raw_changes_gone ON raw_changes (revision) WHERE gone;

CREATE FUNCTION raw_scopes_insert() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END
        RETURNING value INTO NEW.revision;
    PERFORM pg_notify('deltaplane', 'raw/' || NEW.scope);
    RETURN NEW;
END $$;

CREATE FUNCTION raw_touch(scopes TEXT[], types TEXT[], names TEXT[], truncated BOOLEAN) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    now BIGINT;
BEGIN
    IF coalesce(cardinality(names), 0) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO raw_scopes (scope)
        SELECT DISTINCT t.scope FROM unnest(scopes) AS t (scope)
         WHERE NOT EXISTS (SELECT 1 FROM raw_scopes s WHERE s.scope = t.scope);
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END
        RETURNING value INTO now;
    INSERT INTO raw_changes (scope, type_url, name, revision, gone)
        SELECT DISTINCT t.scope, t.type_url, t.name, now, truncated OR NOT EXISTS (
                   SELECT 1 FROM raw_resources r
                    WHERE r.scope = t.scope AND r.type_url = t.type_url
                      AND substr(r.name, 1, 256) = substr(t.name, 1, 256) AND r.name = t.name)
          FROM unnest(scopes, types, names) AS t (scope, type_url, name)
        ON CONFLICT (scope, type_url, substr(name, 1, 256), md5(name))
        DO UPDATE SET revision = excluded.revision, gone = excluded.gone, label = NULL;
    DELETE FROM raw_changes WHERE gone AND revision <= now - 10000;
    PERFORM pg_notify('deltaplane', 'raw/' || t.scope)
       FROM (SELECT DISTINCT unnest(scopes) AS scope) AS t;
END $$;

CREATE FUNCTION raw_resources_changed() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    scopes TEXT[];
    types  TEXT[];
    names  TEXT[];
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        SELECT array_agg(scope), array_agg(type_url), array_agg(name)
          INTO scopes, types, names FROM new_rows;
    WHEN 'DELETE' THEN
        SELECT array_agg(scope), array_agg(type_url), array_agg(name)
          INTO scopes, types, names FROM old_rows;
    WHEN 'UPDATE' THEN
        SELECT array_agg(scope), array_agg(type_url), array_agg(name)
          INTO scopes, types, names
          FROM (SELECT scope, type_url, name FROM old_rows
                UNION SELECT scope, type_url, name FROM new_rows) AS touched;
    ELSE -- TRUNCATE, before it happens.
        SELECT array_agg(scope), array_agg(type_url), array_agg(name)
          INTO scopes, types, names FROM raw_resources;
    END CASE;
    PERFORM raw_touch(scopes, types, names, TG_OP = 'TRUNCATE');
    RETURN NULL;
END $$;

CREATE TRIGGER raw_scopes_insert BEFORE INSERT ON raw_scopes
    FOR EACH ROW EXECUTE FUNCTION raw_scopes_insert();
CREATE TRIGGER raw_resources_lock BEFORE INSERT OR UPDATE OR DELETE ON raw_resources
    FOR EACH STATEMENT EXECUTE FUNCTION services_lock();
CREATE TRIGGER raw_resources_insert AFTER INSERT ON raw_resources
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION raw_resources_changed();
CREATE TRIGGER raw_resources_update AFTER UPDATE ON raw_resources
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION raw_resources_changed();
CREATE TRIGGER raw_resources_delete AFTER DELETE ON raw_resources
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION raw_resources_changed();
CREATE TRIGGER raw_resources_truncate BEFORE TRUNCATE ON raw_resources
    FOR EACH STATEMENT EXECUTE FUNCTION raw_resources_changed();

-- Only the trigger calls it.
REVOKE EXECUTE ON FUNCTION raw_touch(TEXT[], TEXT[], TEXT[], BOOLEAN) FROM PUBLIC;
