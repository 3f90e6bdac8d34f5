-- Fleets that have a canary and are not served all that is stored, with the revision that all of them have.
CREATE TABLE rollouts (
    fleet TEXT    PRIMARY KEY,
    has   INTEGER NOT NULL
) STRICT;
