-- Who may use the HTTP API. Of a token, only its SHA-256 is here.
CREATE TABLE tokens (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 128),
    hash       TEXT    NOT NULL UNIQUE CHECK (length(hash) = 64),
    -- A JSON object of the fleets that it may read and write.
    rights     TEXT    NOT NULL CHECK (json_valid(rights) AND json_type(rights) = 'object'),
    -- In seconds since 1970.
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;

-- Who wrote what, and with which result.
CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    -- In milliseconds since 1970.
    at       INTEGER NOT NULL,
    -- The token's name.
    caller   TEXT,
    -- Where it came from.
    peer     TEXT,
    method   TEXT    NOT NULL,
    path     TEXT    NOT NULL,
    -- A JSON array of the fleets that it concerned.
    fleets   TEXT    NOT NULL DEFAULT '[]',
    -- Of the answer; nothing, if there was none.
    status   INTEGER,
    revision INTEGER
) STRICT;

CREATE INDEX audit_by_time ON audit (at);
