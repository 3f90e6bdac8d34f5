-- All that a service may say of itself.
ALTER TABLE services
    DROP CONSTRAINT services_protocol_check,
    ADD CONSTRAINT services_protocol_check CHECK (protocol IN ('http', 'https', 'grpc', 'tcp')),
    -- A JSON array of {"host", "port", "weight"}: if there is one in it, these are
    -- what counts, and not `upstream_host` and `upstream_port`.
    ADD COLUMN upstreams TEXT NOT NULL DEFAULT '[]'
        CHECK (jsonb_typeof(upstreams::jsonb) = 'array'),
    ADD COLUMN timeout_ms BIGINT CHECK (timeout_ms >= 0),
    ADD COLUMN connect_timeout_ms BIGINT NOT NULL DEFAULT 1000 CHECK (connect_timeout_ms >= 1),
    ADD COLUMN retries BIGINT NOT NULL DEFAULT 0 CHECK (retries >= 0),
    ADD COLUMN http2 BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN websocket BOOLEAN NOT NULL DEFAULT false,
    -- NULL: as the protocol has it.
    ADD COLUMN upstream_tls BOOLEAN,
    ADD COLUMN tls_verify BOOLEAN NOT NULL DEFAULT true,
    ADD COLUMN tls_sni TEXT,
    ADD COLUMN tls_ca TEXT,
    ADD COLUMN health_check_interval_ms BIGINT NOT NULL DEFAULT 5000
        CHECK (health_check_interval_ms >= 1),
    ADD COLUMN is_active BOOLEAN NOT NULL DEFAULT true,
    ADD COLUMN collection TEXT,
    -- The name of a stored one.
    ADD COLUMN certificate TEXT,
    -- That of the last change of this row. The trigger writes it.
    ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

-- Not a change of any row: nobody is told.
ALTER TABLE services DISABLE TRIGGER USER;
UPDATE services s SET revision =
    coalesce((SELECT max(c.revision) FROM changes c WHERE c.service_id = s.id), 0);
ALTER TABLE services ENABLE TRIGGER USER;

-- The counter is locked by now, so the statement's revision is known.
CREATE FUNCTION services_revision() RETURNS TRIGGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    SELECT value + CASE batch WHEN 2 THEN 0 ELSE 1 END INTO NEW.revision FROM revision;
    RETURN NEW;
END $$;

CREATE TRIGGER services_revision BEFORE INSERT OR UPDATE ON services
    FOR EACH ROW EXECUTE FUNCTION services_revision();

-- A batch is one revision for services as well.
CREATE OR REPLACE FUNCTION services_touch(clusters BIGINT[], ids BIGINT[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    now BIGINT;
BEGIN
    IF coalesce(cardinality(ids), 0) = 0 THEN
        RETURN;
    END IF;
    UPDATE revision SET value = value + CASE batch WHEN 2 THEN 0 ELSE 1 END,
                        batch = CASE batch WHEN 1 THEN 2 ELSE batch END
        RETURNING value INTO now;
    INSERT INTO changes
        SELECT DISTINCT cluster_id, service_id, now
          FROM unnest(clusters, ids) AS touched (cluster_id, service_id)
        ON CONFLICT (cluster_id, service_id) DO UPDATE SET revision = excluded.revision;
    INSERT INTO scopes SELECT DISTINCT unnest(clusters) ON CONFLICT DO NOTHING;
    DELETE FROM changes WHERE revision <= now - 10000;
    PERFORM pg_notify('deltaplane', 'cluster-' || cluster_id)
       FROM (SELECT DISTINCT unnest(clusters) AS cluster_id) AS touched;
END $$;
