CREATE TABLE folders (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    epoch BLOB NOT NULL,
    seq INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    bytes INTEGER NOT NULL
, history_from INTEGER NOT NULL DEFAULT 0);
CREATE TABLE nodes (
    folder INTEGER NOT NULL REFERENCES folders(key),
    id BLOB NOT NULL,
    rev INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    content BLOB,
    target BLOB,
    author BLOB NOT NULL,
    content_rev INTEGER NOT NULL,
    content_author BLOB NOT NULL, born INTEGER NOT NULL DEFAULT 0, xattrs BLOB,
    PRIMARY KEY (folder, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX nodes_by_rev ON nodes (folder, rev);
CREATE TABLE names (
    folder INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    node BLOB NOT NULL,
    PRIMARY KEY (folder, parent, name)
) WITHOUT ROWID;
CREATE INDEX names_by_node ON names (folder, node);
CREATE TABLE versions (
    folder INTEGER NOT NULL,
    node BLOB NOT NULL,
    rev INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    content BLOB NOT NULL,
    mtime INTEGER NOT NULL,
    received INTEGER NOT NULL,
    device BLOB NOT NULL,
    PRIMARY KEY (folder, node, rev)
) WITHOUT ROWID;
CREATE INDEX versions_by_path ON versions (folder, parent, name, rev);
CREATE TABLE contents (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    sha256 BLOB,
    manifest BLOB NOT NULL
);
CREATE TABLE packs (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE
);
CREATE TABLE chunks (
    hash BLOB PRIMARY KEY,
    pack INTEGER NOT NULL REFERENCES packs(key),
    offset INTEGER NOT NULL,
    len INTEGER NOT NULL,
    raw_len INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE small_chunks (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    raw_len INTEGER NOT NULL,
    envelope BLOB NOT NULL
);
CREATE TABLE devices (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE answers (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    folder INTEGER NOT NULL,
    op BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    UNIQUE (folder, op)
);
CREATE INDEX answers_by_age ON answers (folder, key);
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL
);
CREATE TABLE commits (
    folder INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    time INTEGER NOT NULL,
    device BLOB NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (folder, last_seq)
) WITHOUT ROWID;
CREATE INDEX commits_by_device ON commits (folder, device, time);
CREATE TABLE history (
    folder INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    node BLOB NOT NULL,
    state BLOB,
    PRIMARY KEY (folder, rev)
) WITHOUT ROWID;
CREATE TABLE holds (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    since INTEGER NOT NULL,
    removes INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    allowed_until INTEGER,
    PRIMARY KEY (folder, device)
) WITHOUT ROWID;
CREATE INDEX chunks_by_pack ON chunks (pack, offset);
CREATE TABLE sessions (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    number INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    PRIMARY KEY (folder, device)
) WITHOUT ROWID;
CREATE INDEX commits_by_author ON commits (folder, device, last_seq);
PRAGMA user_version = 5;
