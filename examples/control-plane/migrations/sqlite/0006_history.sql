-- Every revision, and what it left behind: whatever was stored can be shown, and
-- brought back.

-- The oldest one is where the history begins: what there was then is in `history`, too.
CREATE TABLE revisions (
    revision   INTEGER PRIMARY KEY,
    -- Milliseconds since 1970.
    made_ms    INTEGER NOT NULL,
    author     TEXT    NOT NULL,
    label      TEXT,
    -- The revision whose state it brought back, if it did.
    back_to    INTEGER,
    -- Somebody was told that it can be returned to: until then it stays.
    kept_until INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How a row was left by a revision; of those with one key, the newest is how it is.
CREATE TABLE history (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    revision   INTEGER NOT NULL,
    -- 'service', 'resource', or the kind of an object. The next three are the rest of the
    -- key: the scope and the type of a resource; the id of a service.
    kind       TEXT    NOT NULL,
    place      TEXT    NOT NULL DEFAULT '',
    type_url   TEXT    NOT NULL DEFAULT '',
    name       TEXT    NOT NULL,
    -- Whose it is, and whose it was, if it moved. What has none is everybody's.
    scope      TEXT,
    left_scope TEXT,
    -- In JSON; without it, the row is gone.
    content    TEXT,
    value      BLOB
) STRICT;

-- What became of revisions at the clients of a server, in JSON: of those after `since`.
CREATE TABLE deliveries (
    revision INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    server   TEXT    NOT NULL,
    outcome  TEXT    NOT NULL,
    PRIMARY KEY (revision, server)
) STRICT;

CREATE INDEX history_by_revision ON history (revision);
CREATE INDEX history_by_key ON history (kind, place, type_url, name, seq);

-- A file does not know who writes to it.
CREATE TRIGGER revision_taken AFTER UPDATE OF value ON revision WHEN NEW.value > OLD.value BEGIN
    INSERT INTO revisions (revision, made_ms, author)
        SELECT NEW.value, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'sqlite'
         WHERE NOT EXISTS (SELECT 1 FROM revisions WHERE revision = NEW.value);
END;

CREATE VIEW service_contents AS
    SELECT id, 'cluster-' || cluster_id AS scope, json_object(
        'name', name, 'cluster_id', cluster_id, 'listener_port', listener_port,
        'upstream_host', upstream_host, 'upstream_port', upstream_port, 'protocol', protocol,
        'health_check_path', health_check_path, 'domains', json(domains), 'prefix', prefix,
        'upstreams', json(upstreams), 'timeout_ms', timeout_ms,
        'connect_timeout_ms', connect_timeout_ms, 'retries', retries,
        'http2', json(iif(http2, 'true', 'false')),
        'websocket', json(iif(websocket, 'true', 'false')),
        'upstream_tls', json(CASE upstream_tls WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END),
        'tls_verify', json(iif(tls_verify, 'true', 'false')), 'tls_sni', tls_sni, 'tls_ca', tls_ca,
        'health_check_interval_ms', health_check_interval_ms,
        'is_active', json(iif(is_active, 'true', 'false')), 'collection', collection,
        'certificate', certificate) AS content
      FROM services;

-- Which rows `OR REPLACE` may push out, which fires no DELETE trigger: whoever is no longer
-- there when the other one has come, is gone.
CREATE TABLE services_in_the_way (id INTEGER PRIMARY KEY, cluster_id INTEGER NOT NULL) STRICT;

DROP TRIGGER services_insert_replace;
CREATE TRIGGER services_insert_replace BEFORE INSERT ON services BEGIN
    INSERT INTO touched SELECT cluster_id, id FROM services
     WHERE id = NEW.id OR name = NEW.name;
    DELETE FROM services_in_the_way;
    INSERT INTO services_in_the_way SELECT id, cluster_id FROM services
     WHERE id = NEW.id OR name = NEW.name;
END;

DROP TRIGGER services_update_replace;
CREATE TRIGGER services_update_replace BEFORE UPDATE OF id, name ON services BEGIN
    INSERT INTO touched SELECT cluster_id, id FROM services
     WHERE id <> OLD.id AND (id = NEW.id OR name = NEW.name);
    DELETE FROM services_in_the_way;
    INSERT INTO services_in_the_way SELECT id, cluster_id FROM services
     WHERE id <> OLD.id AND (id = NEW.id OR name = NEW.name);
END;

DROP TRIGGER services_insert;
CREATE TRIGGER services_insert AFTER INSERT ON services BEGIN
    INSERT INTO touched VALUES (NEW.cluster_id, NEW.id);
    UPDATE services SET revision = (SELECT value FROM revision) WHERE id = NEW.id;
    INSERT INTO history (revision, kind, name, scope)
        SELECT r.value, 'service', w.id, 'cluster-' || w.cluster_id
          FROM revision r, services_in_the_way w
         WHERE w.id NOT IN (SELECT id FROM services);
    INSERT INTO history (revision, kind, name, scope, content)
        SELECT r.value, 'service', c.id, c.scope, c.content
          FROM revision r, service_contents c WHERE c.id = NEW.id;
END;

-- All columns but the one that it writes.
DROP TRIGGER services_update;
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
    INSERT INTO history (revision, kind, name, scope)
        SELECT r.value, 'service', OLD.id, 'cluster-' || OLD.cluster_id FROM revision r
         WHERE OLD.id <> NEW.id;
    INSERT INTO history (revision, kind, name, scope)
        SELECT r.value, 'service', w.id, 'cluster-' || w.cluster_id
          FROM revision r, services_in_the_way w
         WHERE (OLD.name <> NEW.name OR OLD.id <> NEW.id) AND w.id NOT IN (SELECT id FROM services);
    INSERT INTO history (revision, kind, name, scope, left_scope, content)
        SELECT r.value, 'service', c.id, c.scope,
               nullif('cluster-' || OLD.cluster_id, c.scope), c.content
          FROM revision r, service_contents c WHERE c.id = NEW.id;
END;

DROP TRIGGER services_delete;
CREATE TRIGGER services_delete AFTER DELETE ON services BEGIN
    INSERT INTO touched VALUES (OLD.cluster_id, OLD.id);
    INSERT INTO history (revision, kind, name, scope)
        SELECT value, 'service', OLD.id, 'cluster-' || OLD.cluster_id FROM revision;
END;

DROP TRIGGER raw_resources_insert;
CREATE TRIGGER raw_resources_insert AFTER INSERT ON raw_resources BEGIN
    INSERT INTO raw_touched VALUES (NEW.scope, NEW.type_url, NEW.name);
    INSERT INTO history (revision, kind, place, type_url, name, scope, content, value)
        SELECT value, 'resource', NEW.scope, NEW.type_url, NEW.name, NEW.scope,
               json_object('version', NEW.version), NEW.value
          FROM revision;
END;

DROP TRIGGER raw_resources_update;
CREATE TRIGGER raw_resources_update AFTER UPDATE ON raw_resources BEGIN
    INSERT INTO raw_touched SELECT OLD.scope, OLD.type_url, OLD.name
     WHERE OLD.scope <> NEW.scope OR OLD.type_url <> NEW.type_url OR OLD.name <> NEW.name;
    INSERT INTO history (revision, kind, place, type_url, name, scope)
        SELECT value, 'resource', OLD.scope, OLD.type_url, OLD.name, OLD.scope FROM revision
         WHERE OLD.scope <> NEW.scope OR OLD.type_url <> NEW.type_url OR OLD.name <> NEW.name;
    INSERT INTO raw_touched VALUES (NEW.scope, NEW.type_url, NEW.name);
    INSERT INTO history (revision, kind, place, type_url, name, scope, content, value)
        SELECT value, 'resource', NEW.scope, NEW.type_url, NEW.name, NEW.scope,
               json_object('version', NEW.version), NEW.value
          FROM revision;
END;

DROP TRIGGER raw_resources_delete;
CREATE TRIGGER raw_resources_delete AFTER DELETE ON raw_resources BEGIN
    INSERT INTO raw_touched VALUES (OLD.scope, OLD.type_url, OLD.name);
    INSERT INTO history (revision, kind, place, type_url, name, scope)
        SELECT value, 'resource', OLD.scope, OLD.type_url, OLD.name, OLD.scope FROM revision;
END;

CREATE VIEW object_contents AS
    SELECT kind, name, definition, CASE kind
        WHEN 'fleet' THEN name
        WHEN 'route' THEN 'cluster-' || coalesce(json_extract(definition, '$.cluster_id'), 1)
    END AS scope
      FROM objects;

DROP TRIGGER objects_insert;
CREATE TRIGGER objects_insert AFTER INSERT ON objects BEGIN
    INSERT INTO objects_touched VALUES (NEW.kind);
    UPDATE objects SET revision = (SELECT value FROM revision)
     WHERE kind = NEW.kind AND name = NEW.name;
    INSERT INTO history (revision, kind, name, scope, content)
        SELECT r.value, c.kind, c.name, c.scope, c.definition
          FROM revision r, object_contents c WHERE c.kind = NEW.kind AND c.name = NEW.name;
END;

DROP TRIGGER objects_update;
CREATE TRIGGER objects_update AFTER UPDATE OF kind, name, definition ON objects BEGIN
    INSERT INTO objects_touched SELECT OLD.kind WHERE OLD.kind <> NEW.kind;
    INSERT INTO objects_touched VALUES (NEW.kind);
    UPDATE objects SET revision = (SELECT value FROM revision)
     WHERE kind = NEW.kind AND name = NEW.name;
    INSERT INTO history (revision, kind, name)
        SELECT value, OLD.kind, OLD.name FROM revision
         WHERE OLD.kind <> NEW.kind OR OLD.name <> NEW.name;
    INSERT INTO history (revision, kind, name, scope, left_scope, content)
        SELECT r.value, c.kind, c.name, c.scope, CASE
                   WHEN OLD.kind = 'route' THEN nullif(
                       'cluster-' || coalesce(json_extract(OLD.definition, '$.cluster_id'), 1),
                       c.scope)
               END, c.definition
          FROM revision r, object_contents c WHERE c.kind = NEW.kind AND c.name = NEW.name;
END;

DROP TRIGGER objects_delete;
CREATE TRIGGER objects_delete AFTER DELETE ON objects BEGIN
    INSERT INTO objects_touched VALUES (OLD.kind);
    INSERT INTO history (revision, kind, name, scope)
        SELECT value, OLD.kind, OLD.name, CASE OLD.kind
                   WHEN 'fleet' THEN OLD.name
                   WHEN 'route' THEN
                       'cluster-' || coalesce(json_extract(OLD.definition, '$.cluster_id'), 1)
               END
          FROM revision;
END;

-- Here the history begins.
INSERT INTO revisions (revision, made_ms, author, label)
    SELECT value, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'deltaplane',
           'here the history begins'
      FROM revision;
INSERT INTO history (revision, kind, name, scope, content)
    SELECT r.value, 'service', c.id, c.scope, c.content FROM revision r, service_contents c;
INSERT INTO history (revision, kind, place, type_url, name, scope, content, value)
    SELECT r.value, 'resource', w.scope, w.type_url, w.name, w.scope,
           json_object('version', w.version), w.value
      FROM revision r, raw_resources w;
INSERT INTO history (revision, kind, name, scope, content)
    SELECT r.value, c.kind, c.name, c.scope, c.definition FROM revision r, object_contents c;
