-- On which stream each runtime was heard last: only the end of that one shortens its leases.
CREATE TABLE lease_streams (
    worker_id TEXT NOT NULL PRIMARY KEY,
    stream_id TEXT NOT NULL,
    opened_at INTEGER NOT NULL
) WITHOUT ROWID;

-- No two imports bring the same run.
ALTER TABLE imports ADD COLUMN run_id TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX imports_by_run ON imports (run_id) WHERE run_id <> '';
