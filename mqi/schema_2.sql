-- Version 2: fractions as units of work (watch folders with `layout: shi`).

-- The delivery folders of a fraction, JSON, by name; of a submitted one they never change. [] for other cases.
ALTER TABLE cases ADD COLUMN deliveries TEXT NOT NULL DEFAULT '[]';
-- What a fraction that is computed all the same lacks, in words; '' when it is whole.
ALTER TABLE cases ADD COLUMN partial TEXT NOT NULL DEFAULT '';
-- Of the plan that a fraction was judged with: another one under known fractions is refused.
ALTER TABLE cases ADD COLUMN plan_sha256 TEXT NOT NULL DEFAULT '';

-- What is known of a study folder; its fractions are rows of `cases`.
CREATE TABLE studies (
    room         TEXT NOT NULL,
    path         TEXT NOT NULL,               -- as in cases
    top_snapshot TEXT NOT NULL DEFAULT '',    -- digest of the listing of everything outside the deliveries
    top_since    REAL NOT NULL DEFAULT 0,     -- when that was first seen
    plan_path    TEXT NOT NULL DEFAULT '',    -- the plan's file as read last, and its bytes
    plan_sha256  TEXT NOT NULL DEFAULT '',
    folders      TEXT NOT NULL DEFAULT '[]',  -- [[folder, mtime_ns], …] while nothing in it is open
    looked_at    REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (room, path)
) STRICT, WITHOUT ROWID;
