-- Version 3: what is known of the hosts, for placing cases and for the sentences in status.

-- The kind of the last failure: silent, refused, login, configuration, trouble; '' after an answer.
ALTER TABLE hosts ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN restarted_at REAL;          -- when another boot id was seen
-- A host that answers and fails all the same (transfers, jobs that do not start): no new cases until then.
ALTER TABLE hosts ADD COLUMN strikes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hosts ADD COLUMN strike_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE hosts ADD COLUMN no_cases_until REAL;
ALTER TABLE hosts ADD COLUMN held INTEGER NOT NULL DEFAULT 0; -- an operator sends no new cases there
ALTER TABLE hosts ADD COLUMN lost_at REAL;               -- an operator declared it lost; NULL once it answers anew

ALTER TABLE gpu_resources ADD COLUMN note TEXT NOT NULL DEFAULT '';  -- why no job may start there
ALTER TABLE gpu_resources ADD COLUMN until REAL;         -- the end of a quarantine, by the host's clock
