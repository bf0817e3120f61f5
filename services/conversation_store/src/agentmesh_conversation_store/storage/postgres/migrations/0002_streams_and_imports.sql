-- On which stream each runtime was heard last: only the end of that one shortens its leases. It holds
-- nothing of any tenant's, so no tenant's transaction has a reason to see it.
CREATE TABLE lease_streams (
    worker_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    stream_id TEXT COLLATE "C" NOT NULL,
    opened_at BIGINT NOT NULL
);
CREATE INDEX lease_streams_oldest ON lease_streams (opened_at);
ALTER TABLE lease_streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE lease_streams FORCE ROW LEVEL SECURITY;
CREATE POLICY store ON lease_streams USING ((SELECT '*' = ANY (agentmesh_tenants())));

-- No two imports bring the same run.
ALTER TABLE imports ADD COLUMN run_id TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX imports_by_run ON imports (run_id) WHERE run_id <> '';
