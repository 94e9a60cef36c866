-- The state of one installation. The database holds what; the log files hold why.
-- Times are Unix seconds: read them with datetime(submitted_at, 'unixepoch').

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- One row per unit of work: room, path, fraction (or the whole folder: ''), revision.
CREATE TABLE cases (
    case_id             INTEGER PRIMARY KEY AUTOINCREMENT,
    room                TEXT NOT NULL,
    path                TEXT NOT NULL,              -- below the watch folder, with '/'
    case_path           TEXT NOT NULL,              -- absolute
    fraction            TEXT NOT NULL DEFAULT '',
    revision            INTEGER NOT NULL DEFAULT 1,
    results_name        TEXT NOT NULL,              -- folder below results/<room>, legal on Windows
    workflow            TEXT NOT NULL,
    status              TEXT NOT NULL,              -- a word of mqi.case.State
    status_updated_at   REAL NOT NULL,
    reason              TEXT NOT NULL DEFAULT '',
    hint                TEXT NOT NULL DEFAULT '',
    needs_operator      INTEGER NOT NULL DEFAULT 0, -- beyond what the status says
    folder_note         TEXT NOT NULL DEFAULT '',   -- '', emptied, vanished, changed: said beside the reason
    progress            REAL NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    current_step        TEXT NOT NULL DEFAULT '',
    priority            INTEGER NOT NULL DEFAULT 0,
    held                INTEGER NOT NULL DEFAULT 0,
    -- intake
    snapshot            TEXT NOT NULL DEFAULT '',   -- digest of the folder's listing
    snapshot_at         REAL NOT NULL DEFAULT 0,    -- when this listing was first seen
    judged_snapshot     TEXT NOT NULL DEFAULT '',   -- the listing whose plan was read last
    folders             TEXT NOT NULL DEFAULT '[]', -- [[folder, mtime_ns], …] of a settled unit
    looked_at           REAL NOT NULL DEFAULT 0,    -- last look at every file
    next_look_at        REAL,
    beams               TEXT NOT NULL DEFAULT '[]', -- [[DICOM beam number, name], …]
    plan_uid            TEXT NOT NULL DEFAULT '',
    -- the run
    run_key             TEXT UNIQUE,
    run_digest          TEXT UNIQUE,
    host                TEXT NOT NULL DEFAULT '',
    pueue_group         TEXT NOT NULL DEFAULT '',   -- the queue's group, whichever queue it is
    plan                TEXT,                       -- the plan as frozen for the host, JSON
    plan_serial         INTEGER NOT NULL DEFAULT 0, -- of the frozen plan
    host_serial         INTEGER NOT NULL DEFAULT 0, -- the last one that the host confirmed
    cancel_requested_at REAL,
    retry               TEXT,                       -- a retry waiting for the host's word, or to be frozen: JSON
    attempts            INTEGER NOT NULL DEFAULT 0, -- failed tries of the present step
    next_try_at         REAL,
    first_seen_at       REAL NOT NULL,
    ready_at            REAL,
    submitted_at        REAL,
    started_at          REAL,
    completed_at        REAL,
    released_at         REAL,                       -- the host was told that the results are safe
    purged_at           REAL,
    results_path        TEXT NOT NULL DEFAULT '',
    verdict             TEXT NOT NULL DEFAULT '',
    UNIQUE (room, path, fraction, revision)
) STRICT;
-- The steps and `status` ask only for what is open or recent, whatever the number of finished cases.
CREATE INDEX cases_by_status ON cases (status, status_updated_at);
CREATE INDEX cases_open ON cases (case_id) WHERE status NOT IN ('completed', 'skipped');
CREATE INDEX cases_to_release ON cases (host) WHERE released_at IS NULL AND purged_at IS NULL AND host_serial > 0;
CREATE INDEX cases_to_purge ON cases (released_at) WHERE purged_at IS NULL AND released_at IS NOT NULL;
-- Results lie below this name, and Windows does not tell 'A' from 'a'.
CREATE INDEX cases_by_results ON cases (room, results_name COLLATE NOCASE);

CREATE TABLE jobs (
    job_key    TEXT PRIMARY KEY,
    case_id    INTEGER NOT NULL REFERENCES cases (case_id),
    step       TEXT NOT NULL,
    beam       INTEGER,
    attempt    INTEGER NOT NULL,
    state      TEXT NOT NULL,
    definition TEXT NOT NULL,
    exit_code  INTEGER,
    exit_kind  TEXT NOT NULL DEFAULT '',
    reason     TEXT NOT NULL DEFAULT '',
    progress   REAL NOT NULL DEFAULT 0,
    message    TEXT NOT NULL DEFAULT '',
    group_name TEXT NOT NULL DEFAULT '',
    gpu        TEXT NOT NULL DEFAULT '',
    queue_id   TEXT NOT NULL DEFAULT '',
    started_at REAL,
    ended_at   REAL,
    outputs    TEXT NOT NULL DEFAULT '',
    log_path   TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX jobs_once ON jobs (case_id, step, ifnull(beam, -1), attempt);

-- The inputs of a run as frozen by `begin`; zlib-compressed JSON; dropped when the run is purged.
CREATE TABLE manifests (
    case_id INTEGER PRIMARY KEY REFERENCES cases (case_id),
    entries BLOB NOT NULL
) STRICT;

CREATE TABLE hosts (
    name            TEXT PRIMARY KEY,
    work_id         TEXT NOT NULL DEFAULT '',  -- a new work directory has a new one
    seq             INTEGER NOT NULL DEFAULT 0,
    inventoried_at  REAL,                      -- when this database asked for every run the host knows
    last_attempt_at REAL,
    last_answer_at  REAL,
    failures        INTEGER NOT NULL DEFAULT 0,
    next_try_at     REAL,
    last_error      TEXT NOT NULL DEFAULT '',
    probe           TEXT NOT NULL DEFAULT '{}',
    clock_skew_s    REAL NOT NULL DEFAULT 0
) STRICT;

-- Runs that a host held before this database knew them (a lost or restored database).
CREATE TABLE host_runs (
    host    TEXT NOT NULL,
    run_key TEXT NOT NULL,
    digest  TEXT NOT NULL,
    state   TEXT NOT NULL,
    PRIMARY KEY (host, run_key)
) STRICT;
CREATE INDEX host_runs_by_key ON host_runs (run_key);

-- One row per host, group and GPU (a group without GPUs has the one row 'cpu').
CREATE TABLE gpu_resources (
    host             TEXT NOT NULL,
    pueue_group      TEXT NOT NULL,
    gpu              TEXT NOT NULL,
    status           TEXT NOT NULL CHECK (status IN ('available', 'busy', 'unknown', 'quarantined')),
    assigned_case_id INTEGER,
    assigned_job_key TEXT NOT NULL DEFAULT '',
    name             TEXT NOT NULL DEFAULT '',
    memory_used_mb   REAL,
    memory_total_mb  REAL,
    utilisation      REAL,
    temperature      REAL,
    running          INTEGER NOT NULL DEFAULT 0,
    slots            INTEGER NOT NULL DEFAULT 0,
    queued           INTEGER NOT NULL DEFAULT 0,
    updated_at       REAL NOT NULL,
    PRIMARY KEY (host, pueue_group, gpu)
) STRICT;

-- The audit trail and the outbox of notifications at once: one row per change of state, never altered.
CREATE TABLE events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,
    case_id  INTEGER NOT NULL REFERENCES cases (case_id),
    event    TEXT NOT NULL,
    before   TEXT NOT NULL,
    after    TEXT NOT NULL,
    reason   TEXT NOT NULL DEFAULT '',
    actor    TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_case ON events (case_id, event_id);
CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TRIGGER events_are_final BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;

-- What a file's bytes were when it had this size, time and id; saves reading it again.
CREATE TABLE hash_cache (
    path     TEXT PRIMARY KEY,
    size     INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    file_id  INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    used_at  REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Last attempt and last success of each step, and each watch folder, apart.
CREATE TABLE steps (
    name            TEXT PRIMARY KEY,
    last_attempt_at REAL,
    last_success_at REAL,
    last_error      TEXT NOT NULL DEFAULT ''
) STRICT;
