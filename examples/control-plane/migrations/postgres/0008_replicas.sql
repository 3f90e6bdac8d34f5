-- The servers that serve what is stored here, so that they spread clients over each other. Each says every second
-- that it is there; what a crash of the database loses is said again.
CREATE UNLOGGED TABLE replicas (
    server  TEXT        PRIMARY KEY,
    streams BIGINT      NOT NULL,
    -- By the clock of this database.
    seen    TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

-- Each server has a canary of its own, and fleets that are not served all that is stored.
ALTER TABLE rollouts ADD COLUMN server TEXT NOT NULL DEFAULT '';
-- The revision that some of the fleet have there, while they are the only ones.
ALTER TABLE rollouts ADD COLUMN tried BIGINT;
ALTER TABLE rollouts DROP CONSTRAINT rollouts_pkey;
ALTER TABLE rollouts ADD PRIMARY KEY (fleet, server);

-- Up to which revision the nodes that are the canary of a fleet accepted what is stored, at whichever server they were.
CREATE TABLE promotions (
    fleet    TEXT   PRIMARY KEY,
    revision BIGINT NOT NULL
);
