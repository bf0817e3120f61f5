-- Text sorts by its bytes, as it does in SQLite and in Python.
-- Times are microseconds since 1970. Statuses and kinds are the numbers of the contracts.

CREATE TABLE conversations (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    root_run_id TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    completed_at BIGINT,
    summary TEXT COLLATE "C" NOT NULL,
    head_sequence BIGINT NOT NULL,
    oldest_sequence BIGINT NOT NULL,
    usage TEXT COLLATE "C" NOT NULL,
    size_bytes BIGINT NOT NULL,
    message_count BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id)
) WITH (fillfactor = 70);
CREATE INDEX conversations_newest ON conversations (tenant, started_at DESC, conversation_id DESC);

CREATE TABLE conversation_facts (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    task TEXT COLLATE "C" NOT NULL,
    agents TEXT COLLATE "C" NOT NULL,
    workflow TEXT COLLATE "C" NOT NULL,
    labels TEXT COLLATE "C" NOT NULL,
    forked_from TEXT COLLATE "C" NOT NULL,
    forked_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id)
);

CREATE TABLE conversation_agents (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, conversation_id, agent)
);

-- What runs pinned, once per content.
CREATE TABLE definitions (
    tenant TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE runs (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    root_run_id TEXT COLLATE "C" NOT NULL,
    definition_digest TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    max_rounds BIGINT NOT NULL,
    parent_run_id TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    waiting_for BIGINT NOT NULL,
    end_reason BIGINT NOT NULL,
    detail TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    rounds BIGINT NOT NULL,
    ended_at BIGINT,
    deadline BIGINT,
    timeout BIGINT,
    usage TEXT COLLATE "C" NOT NULL,
    budget TEXT COLLATE "C" NOT NULL,
    traceparent TEXT COLLATE "C" NOT NULL,
    summary TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    runnable_at BIGINT,
    wake_at BIGINT,
    lease_worker TEXT COLLATE "C" NOT NULL,
    lease_until BIGINT,
    pause_requested BIGINT NOT NULL,
    human_input BIGINT NOT NULL,
    inbox_head BIGINT NOT NULL,
    inbox_read BIGINT NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    last_message BIGINT NOT NULL,
    committed_message BIGINT NOT NULL,
    turn_steps BIGINT NOT NULL,
    turn_usage TEXT COLLATE "C" NOT NULL,
    turn_messages TEXT COLLATE "C" NOT NULL,
    reserved TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, run_id)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX runs_by_id ON runs (run_id);
CREATE INDEX runs_live ON runs (tenant, conversation_id) WHERE status < 5;
CREATE INDEX runs_queue ON runs (tenant, priority DESC, runnable_at, run_id) WHERE status = 1;
CREATE INDEX runs_runnable ON runs (runnable_at) WHERE status = 1;
CREATE INDEX runs_leased ON runs (lease_until) WHERE status = 2;
CREATE INDEX runs_leased_by_tenant ON runs (tenant) WHERE status = 2;
CREATE INDEX runs_timers ON runs (wake_at) WHERE status = 3 AND wake_at IS NOT NULL;
CREATE INDEX runs_deadlines ON runs (deadline) WHERE status < 5 AND deadline IS NOT NULL;

CREATE TABLE events (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    message_id TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    data BYTEA NOT NULL,
    feed_position BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
);
CREATE UNIQUE INDEX events_feed ON events (tenant, feed_position);

-- How many events each tenant has had. Whoever commits events locks it last and gives positions.
CREATE TABLE tenant_feeds (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE inputs (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, run_id, sequence)
);

CREATE TABLE steps (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    step_key TEXT COLLATE "C" NOT NULL,
    kind BIGINT NOT NULL,
    request_digest BYTEA NOT NULL,
    fence BIGINT NOT NULL,
    attempt_id TEXT COLLATE "C" NOT NULL,
    recorded BIGINT NOT NULL,
    result BYTEA NOT NULL,
    encoding TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    reservation TEXT COLLATE "C" NOT NULL,
    record TEXT COLLATE "C" NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant, run_id, turn, step_key)
);

CREATE TABLE committed_turns (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    content TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    previous_checkpoint_id TEXT COLLATE "C" NOT NULL,
    message_ids TEXT COLLATE "C" NOT NULL,
    previous_message BIGINT NOT NULL,
    previous_read BIGINT NOT NULL,
    discarded BIGINT NOT NULL,
    next_fence BIGINT NOT NULL,
    PRIMARY KEY (tenant, run_id, turn)
);

CREATE TABLE checkpoints (
    tenant TEXT COLLATE "C" NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    data BYTEA NOT NULL,
    encoding TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    base_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, checkpoint_id)
);
CREATE INDEX checkpoints_by_run ON checkpoints (tenant, run_id);

CREATE TABLE raised_fences (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    fence BIGINT NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    raised_at BIGINT NOT NULL,
    worker_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, run_id, fence)
);
CREATE INDEX raised_fences_newest ON raised_fences (raised_at);

CREATE TABLE requests (
    tenant TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL,
    response BYTEA NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX requests_expiry ON requests (expires_at);

CREATE TABLE documents (
    tenant TEXT COLLATE "C" NOT NULL,
    kind BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    deleted BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (tenant, kind, name, version)
);

CREATE TABLE api_keys (
    tenant TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    role BIGINT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    hash BYTEA NOT NULL,
    PRIMARY KEY (tenant, key_id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);

-- A transaction names the tenants whose rows it may see in agentmesh.tenants, as an array; '*' is
-- the store itself. Where nothing is set nothing is seen. The owner of the tables is bound too;
-- only superusers and roles with BYPASSRLS are beyond it.
CREATE FUNCTION agentmesh_tenants() RETURNS text[] LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('agentmesh.tenants', true), '')::text[] $$;

CREATE FUNCTION agentmesh_protect(protected regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', protected);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', protected);
    -- As subqueries the setting is read once for each statement, not for each row.
    EXECUTE format(
        'CREATE POLICY tenants ON %s USING (tenant = ANY ((SELECT agentmesh_tenants())::text[])'
        ' OR (SELECT ''*'' = ANY (agentmesh_tenants())))',
        protected);
END
$$;

DO $$
DECLARE
    protected text;
BEGIN
    FOREACH protected IN ARRAY ARRAY[
        'conversations', 'conversation_facts', 'conversation_agents', 'definitions', 'runs',
        'events', 'tenant_feeds', 'inputs', 'steps', 'committed_turns', 'checkpoints',
        'raised_fences', 'requests', 'documents', 'api_keys'
    ] LOOP
        PERFORM agentmesh_protect(protected::regclass);
    END LOOP;
END
$$;
