-- Who may use the HTTP API. Of a token, only its SHA-256 is here.
CREATE TABLE tokens (
    name       TEXT   NOT NULL PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 128),
    hash       TEXT   NOT NULL UNIQUE CHECK (length(hash) = 64),
    -- A JSON object of the fleets that it may read and write.
    rights     TEXT   NOT NULL CHECK (jsonb_typeof(rights::jsonb) = 'object'),
    -- In seconds since 1970.
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

-- Who wrote what, and with which result.
CREATE TABLE audit (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- In milliseconds since 1970.
    at       BIGINT NOT NULL,
    -- The token's name.
    caller   TEXT,
    -- Where it came from.
    peer     TEXT,
    method   TEXT   NOT NULL,
    path     TEXT   NOT NULL,
    -- A JSON array of the fleets that it concerned.
    fleets   TEXT   NOT NULL DEFAULT '[]',
    -- Of the answer; nothing, if there was none.
    status   BIGINT,
    revision BIGINT
);

CREATE INDEX audit_by_time ON audit (at);
