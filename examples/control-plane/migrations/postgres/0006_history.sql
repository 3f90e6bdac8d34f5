-- Every revision, and what it left behind: whatever was stored can be shown, and
-- brought back.

-- The oldest one is where the history begins: what there was then is in `history`, too.
CREATE TABLE revisions (
    revision   BIGINT PRIMARY KEY,
    -- Milliseconds since 1970.
    made_ms    BIGINT NOT NULL,
    author     TEXT   NOT NULL,
    label      TEXT,
    -- The revision whose state it brought back, if it did.
    back_to    BIGINT,
    -- Somebody was told that it can be returned to: until then it stays.
    kept_until BIGINT NOT NULL DEFAULT 0
);

-- How a row was left by a revision; of those with one key, the newest is how it is.
CREATE TABLE history (
    seq        BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    revision   BIGINT NOT NULL,
    -- 'service', 'resource', or the kind of an object. The next three are the rest of the
    -- key: the scope and the type of a resource; the id of a service.
    kind       TEXT   NOT NULL,
    place      TEXT   NOT NULL DEFAULT '',
    type_url   TEXT   NOT NULL DEFAULT '',
    name       TEXT   NOT NULL,
    -- Whose it is, and whose it was, if it moved. What has none is everybody's.
    scope      TEXT,
    left_scope TEXT,
    -- In JSON; without it, the row is gone.
    content    TEXT,
    value      BYTEA
);

-- What became of revisions at the clients of a server, in JSON: of those after `since`.
CREATE TABLE deliveries (
    revision BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    server   TEXT   NOT NULL,
    outcome  TEXT   NOT NULL,
    PRIMARY KEY (revision, server)
);

CREATE INDEX history_by_revision ON history (revision);
CREATE INDEX history_by_key ON history (kind, place, type_url, substr(name, 1, 256), seq);

CREATE FUNCTION revision_taken() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO revisions (revision, made_ms, author)
        VALUES (NEW.value, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT, session_user)
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER revision_taken AFTER UPDATE ON revision
    FOR EACH ROW WHEN (NEW.value > OLD.value) EXECUTE FUNCTION revision_taken();

CREATE FUNCTION service_content(service JSONB) RETURNS TEXT
LANGUAGE sql IMMUTABLE AS $$
    SELECT (service - 'id' - 'revision' || jsonb_build_object(
        'domains', (service ->> 'domains')::jsonb,
        'upstreams', (service ->> 'upstreams')::jsonb))::text
$$;

CREATE FUNCTION object_scope(kind TEXT, name TEXT, definition TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind
        WHEN 'fleet' THEN name
        WHEN 'route' THEN 'cluster-' || coalesce(definition::jsonb ->> 'cluster_id', '1')
    END
$$;

CREATE OR REPLACE FUNCTION services_changed() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    clusters BIGINT[];
    ids BIGINT[];
BEGIN
    CASE TG_OP
    WHEN 'INSERT' THEN
        SELECT array_agg(cluster_id), array_agg(id) INTO clusters, ids FROM new_rows;
    WHEN 'DELETE' THEN
        SELECT array_agg(cluster_id), array_agg(id) INTO clusters, ids FROM old_rows;
    WHEN 'UPDATE' THEN
        -- A service that moves changes the fleet it left as well.
        SELECT array_agg(cluster_id), array_agg(id) INTO clusters, ids
          FROM (SELECT cluster_id, id FROM old_rows
                UNION SELECT cluster_id, id FROM new_rows) AS touched;
    ELSE -- TRUNCATE, before it happens: afterwards nothing tells what was there.
        SELECT array_agg(cluster_id), array_agg(id) INTO clusters, ids FROM services;
    END CASE;
    PERFORM services_touch(clusters, ids);
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO history (revision, kind, name, scope, content)
            SELECT r.value, 'service', n.id, 'cluster-' || n.cluster_id, service_content(to_jsonb(n))
              FROM revision r, new_rows n;
    WHEN 'DELETE' THEN
        INSERT INTO history (revision, kind, name, scope)
            SELECT r.value, 'service', o.id, 'cluster-' || o.cluster_id FROM revision r, old_rows o;
    WHEN 'UPDATE' THEN
        INSERT INTO history (revision, kind, name, scope)
            SELECT r.value, 'service', o.id, 'cluster-' || o.cluster_id FROM revision r, old_rows o
             WHERE NOT EXISTS (SELECT 1 FROM new_rows n WHERE n.id = o.id);
        INSERT INTO history (revision, kind, name, scope, left_scope, content)
            SELECT r.value, 'service', n.id, 'cluster-' || n.cluster_id,
                   'cluster-' || o.cluster_id, service_content(to_jsonb(n))
              FROM revision r, new_rows n
              LEFT JOIN old_rows o ON o.id = n.id AND o.cluster_id <> n.cluster_id;
    ELSE
        INSERT INTO history (revision, kind, name, scope)
            SELECT r.value, 'service', o.id, 'cluster-' || o.cluster_id FROM revision r, services o;
    END CASE;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION raw_resources_changed() RETURNS TRIGGER
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
    -- What is written anew after this is told after it.
    INSERT INTO history (revision, kind, place, type_url, name, scope)
        SELECT r.value, 'resource', c.scope, c.type_url, c.name, c.scope
          FROM revision r JOIN raw_changes c ON c.revision = r.value AND c.gone
          JOIN (SELECT DISTINCT * FROM unnest(scopes, types, names) AS t (scope, type_url, name)) t
            ON t.scope = c.scope AND t.type_url = c.type_url AND t.name = c.name;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO history (revision, kind, place, type_url, name, scope, content, value)
            SELECT r.value, 'resource', n.scope, n.type_url, n.name, n.scope,
                   jsonb_build_object('version', n.version)::text, n.value
              FROM revision r, new_rows n;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION objects_logged() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    was TEXT;
    now TEXT;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO history (revision, kind, name, scope)
            SELECT r.value, o.kind, o.name, object_scope(o.kind, o.name, o.definition)
              FROM revision r, objects o;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        was := object_scope(OLD.kind, OLD.name, OLD.definition);
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.kind, OLD.name) <> (NEW.kind, NEW.name)) THEN
        INSERT INTO history (revision, kind, name, scope)
            SELECT CASE TG_OP WHEN 'DELETE' THEN value ELSE NEW.revision END, OLD.kind, OLD.name, was
              FROM revision;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        now := object_scope(NEW.kind, NEW.name, NEW.definition);
        INSERT INTO history (revision, kind, name, scope, left_scope, content)
            VALUES (NEW.revision, NEW.kind, NEW.name, now, nullif(was, now), NEW.definition);
    END IF;
    RETURN NULL;
END $$;

-- By their names, they follow those that take the revision.
CREATE TRIGGER objects_logged AFTER INSERT OR UPDATE OR DELETE ON objects
    FOR EACH ROW EXECUTE FUNCTION objects_logged();
CREATE TRIGGER objects_truncate_logged BEFORE TRUNCATE ON objects
    FOR EACH STATEMENT EXECUTE FUNCTION objects_logged();

-- Here the history begins.
INSERT INTO revisions (revision, made_ms, author, label)
    SELECT value, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT, 'deltaplane',
           'here the history begins'
      FROM revision;
INSERT INTO history (revision, kind, name, scope, content)
    SELECT r.value, 'service', s.id, 'cluster-' || s.cluster_id, service_content(to_jsonb(s))
      FROM revision r, services s;
INSERT INTO history (revision, kind, place, type_url, name, scope, content, value)
    SELECT r.value, 'resource', w.scope, w.type_url, w.name, w.scope,
           jsonb_build_object('version', w.version)::text, w.value
      FROM revision r, raw_resources w;
INSERT INTO history (revision, kind, name, scope, content)
    SELECT r.value, o.kind, o.name, object_scope(o.kind, o.name, o.definition), o.definition
      FROM revision r, objects o;
