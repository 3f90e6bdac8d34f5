-- Each server has a canary of its own, and fleets that are not served all that is stored.
CREATE TABLE rollouts_of_servers (
    fleet  TEXT    NOT NULL,
    server TEXT    NOT NULL,
    has    INTEGER NOT NULL,
    -- The revision that some of the fleet have there, while they are the only ones.
    tried  INTEGER,
    PRIMARY KEY (fleet, server)
) STRICT;
INSERT INTO rollouts_of_servers (fleet, server, has) SELECT fleet, '', has FROM rollouts;
DROP TABLE rollouts;
ALTER TABLE rollouts_of_servers RENAME TO rollouts;

-- Up to which revision the nodes that are the canary of a fleet accepted what is stored.
CREATE TABLE promotions (
    fleet    TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL
) STRICT;
