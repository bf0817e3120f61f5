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
    removed_bytes BIGINT NOT NULL,
    last_event_at BIGINT NOT NULL,
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
    legal_hold BIGINT NOT NULL,
    retention_age BIGINT,
    retention_events BIGINT,
    PRIMARY KEY (tenant, conversation_id)
);
CREATE INDEX conversation_facts_retention ON conversation_facts (tenant)
    WHERE retention_age IS NOT NULL OR retention_events IS NOT NULL;

-- Where a fork's history lies: events of these sequences are in another log. A range that ends
-- before it begins shares no event any more, but the state of the team.
CREATE TABLE shared_history (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    last_sequence BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    log_id TEXT COLLATE "C" NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, conversation_id, last_sequence)
);
CREATE INDEX shared_history_by_log ON shared_history (tenant, log_id);

-- Places in a log where it and the state of its team agree: forks go on from there, and retention
-- cuts there.
CREATE TABLE milestones (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    committed_at BIGINT NOT NULL,
    checkpoint_id TEXT COLLATE "C" NOT NULL,
    inbox_read BIGINT NOT NULL,
    before_sequence BIGINT NOT NULL,
    before_bytes BIGINT NOT NULL,
    before_messages BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
);

-- Logs of which something is to be removed in the background.
CREATE TABLE removals (
    tenant TEXT COLLATE "C" NOT NULL,
    log_id TEXT COLLATE "C" NOT NULL,
    requested_at BIGINT NOT NULL,
    position BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, log_id)
);
CREATE INDEX removals_oldest ON removals (requested_at);

-- Conversations that are being imported, and when their importer was heard of last. Their events are
-- there before they are; in the tenant's feed they stand at negative places until then.
CREATE TABLE imports (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    place BIGINT NOT NULL,
    heard_at BIGINT NOT NULL,
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
    agent_path TEXT COLLATE "C" NOT NULL,
    pending_approvals BIGINT NOT NULL,
    PRIMARY KEY (tenant, run_id)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX runs_by_id ON runs (run_id);
CREATE INDEX runs_by_conversation ON runs (tenant, conversation_id);
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
-- What people said to runs: a fork looks for what has not been read.
CREATE INDEX events_inputs ON events (tenant, conversation_id, sequence)
    WHERE kind = 'message' AND turn = 0;

-- What says how the other events count as context.
CREATE INDEX events_marks ON events (tenant, conversation_id, sequence)
    WHERE kind IN ('context_summary', 'turn_discarded');

-- How many events each tenant has had. Whoever commits events locks it last and gives positions.
CREATE TABLE tenant_feeds (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
) WITH (fillfactor = 50);

-- The words of what was said. What a word is is decided by the store; see its search module.
CREATE TABLE message_words (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    words TSVECTOR NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
);
-- New words wait in a list that is searched one by one, until somebody's write carries them over:
-- it is kept short, so that neither takes long.
CREATE INDEX message_words_index ON message_words USING gin (words)
    WITH (gin_pending_list_limit = 512);

CREATE TABLE inputs (
    tenant TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, run_id, sequence)
);

-- What waits for a person.
CREATE TABLE approvals (
    tenant TEXT COLLATE "C" NOT NULL,
    approval_id TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL,
    turn BIGINT NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    prompt TEXT COLLATE "C" NOT NULL,
    tool_call BYTEA NOT NULL,
    requested_at BIGINT NOT NULL,
    requested_sequence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    role BIGINT NOT NULL,
    status BIGINT NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    comment TEXT COLLATE "C" NOT NULL,
    edited_arguments_json TEXT COLLATE "C" NOT NULL,
    resolved_at BIGINT,
    PRIMARY KEY (tenant, approval_id)
);
CREATE INDEX approvals_oldest ON approvals (tenant, requested_at, approval_id);
CREATE INDEX approvals_by_conversation ON approvals (tenant, conversation_id, requested_at);
CREATE INDEX approvals_pending ON approvals (tenant, run_id) WHERE status = 1;
CREATE INDEX approvals_expiry ON approvals (expires_at) WHERE status = 1;
CREATE INDEX approvals_unanswered ON approvals (tenant, requested_at, approval_id)
    WHERE status = 1;

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
    conversation_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant, checkpoint_id)
);
CREATE INDEX checkpoints_by_run ON checkpoints (tenant, run_id);
CREATE INDEX checkpoints_by_sequence ON checkpoints (tenant, conversation_id, sequence);
CREATE INDEX checkpoints_by_base ON checkpoints (tenant, base_id) WHERE base_id <> '';

CREATE TABLE blob_references (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence, digest)
);
CREATE INDEX blob_references_by_digest ON blob_references (tenant, digest);

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

-- What was consumed, by the hour. It stays when conversations are deleted: it is the bill.
CREATE TABLE usage_hours (
    tenant TEXT COLLATE "C" NOT NULL,
    hour BIGINT NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    agent TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    model_calls BIGINT NOT NULL,
    tool_calls BIGINT NOT NULL,
    sandbox_cpu_ms BIGINT NOT NULL,
    cost_micros BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    PRIMARY KEY (tenant, hour, conversation_id, agent, model)
);

CREATE TABLE tenant_policies (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    max_active_runs BIGINT,
    daily_budget TEXT COLLATE "C" NOT NULL,
    retention_age BIGINT,
    retention_events BIGINT,
    version BIGINT NOT NULL
);

-- What each tenant consumed of its day, and what its open steps reserve. Of another day only the
-- reservations count.
CREATE TABLE tenant_days (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    day BIGINT NOT NULL,
    turns BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cost_micros BIGINT NOT NULL,
    reserved_tokens BIGINT NOT NULL,
    reserved_cost_micros BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE audit_records (
    tenant TEXT COLLATE "C" NOT NULL,
    time BIGINT NOT NULL,
    batch_id TEXT COLLATE "C" NOT NULL,
    ordinal BIGINT NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    method TEXT COLLATE "C" NOT NULL,
    resource TEXT COLLATE "C" NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    peer TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, time, batch_id, ordinal)
);

-- A transaction names the tenants whose rows it may see in agentmesh.tenants, as an array; '*' is
-- the store itself. Where nothing is set nothing is seen. The owner of the tables is bound too;
-- only superusers and roles with BYPASSRLS are beyond it.
CREATE FUNCTION agentmesh_tenants() RETURNS text[] LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('agentmesh.tenants', true), '')::text[] $$;

-- Whether anybody at all has been waiting for a worker: fairness is between tenants. Of others than
-- those that the transaction is bound to it tells nothing but an id.
CREATE FUNCTION overdue_runs(since bigint) RETURNS TABLE (run_id text) LANGUAGE plpgsql AS $$
DECLARE
    bound text := current_setting('agentmesh.tenants', true);
BEGIN
    PERFORM set_config('agentmesh.tenants', '{*}', true);
    RETURN QUERY
        SELECT runs.run_id FROM runs WHERE status = 1 AND runnable_at <= since LIMIT 2;
    PERFORM set_config('agentmesh.tenants', bound, true);
END
$$;

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
        'shared_history', 'milestones', 'removals', 'imports',
        'conversations', 'conversation_facts', 'conversation_agents', 'definitions', 'runs',
        'blob_references',
        'events', 'tenant_feeds', 'inputs', 'approvals', 'steps', 'committed_turns', 'checkpoints',
        'raised_fences', 'requests', 'documents', 'api_keys',
        'usage_hours', 'tenant_policies', 'tenant_days', 'audit_records'
    ] LOOP
        PERFORM agentmesh_protect(protected::regclass);
    END LOOP;
END
$$;

-- The operator @@ might leak what it compares, so that behind a policy Postgres would apply it to
-- the rows that passed the policy only, and never to the index. The owner of this table, which is
-- the store, is therefore not bound here (no FORCE): the store joins it to conversations, whose
-- policy binds it, and names the tenant. Any other role is bound as everywhere; for a store that
-- is not the owner search is right and slow.
SELECT agentmesh_protect('message_words');
ALTER TABLE message_words NO FORCE ROW LEVEL SECURITY;
