-- Times are microseconds since 1970. Statuses and kinds are the numbers of the contracts.

CREATE TABLE conversations (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    root_run_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    completed_at INTEGER,
    summary TEXT NOT NULL,
    head_sequence INTEGER NOT NULL,
    oldest_sequence INTEGER NOT NULL,
    usage TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    message_count INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id)
);
CREATE INDEX conversations_newest ON conversations (tenant, started_at DESC, conversation_id DESC);

CREATE TABLE conversation_facts (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    task TEXT NOT NULL,
    agents TEXT NOT NULL,
    workflow TEXT NOT NULL,
    labels TEXT NOT NULL,
    forked_from TEXT NOT NULL,
    forked_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id)
);

-- What runs pinned, once per content.
CREATE TABLE definitions (
    tenant TEXT NOT NULL,
    digest TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE runs (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    root_run_id TEXT NOT NULL,
    definition_digest TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    max_rounds INTEGER NOT NULL,
    parent_run_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    waiting_for INTEGER NOT NULL,
    end_reason INTEGER NOT NULL,
    detail TEXT NOT NULL,
    turn INTEGER NOT NULL,
    rounds INTEGER NOT NULL,
    ended_at INTEGER,
    deadline INTEGER,
    timeout INTEGER,
    usage TEXT NOT NULL,
    budget TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    summary TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    runnable_at INTEGER,
    wake_at INTEGER,
    lease_worker TEXT NOT NULL,
    lease_until INTEGER,
    pause_requested INTEGER NOT NULL,
    human_input INTEGER NOT NULL,
    inbox_head INTEGER NOT NULL,
    inbox_read INTEGER NOT NULL,
    checkpoint_id TEXT NOT NULL,
    last_message INTEGER NOT NULL,
    committed_message INTEGER NOT NULL,
    turn_steps INTEGER NOT NULL,
    turn_usage TEXT NOT NULL,
    turn_messages TEXT NOT NULL,
    reserved TEXT NOT NULL,
    PRIMARY KEY (tenant, run_id)
);
CREATE UNIQUE INDEX runs_by_id ON runs (run_id);
CREATE INDEX runs_live ON runs (tenant, conversation_id) WHERE status < 5;
CREATE INDEX runs_queue ON runs (tenant, priority DESC, runnable_at, run_id) WHERE status = 1;
CREATE INDEX runs_runnable ON runs (runnable_at) WHERE status = 1;
CREATE INDEX runs_leased ON runs (lease_until) WHERE status = 2;
CREATE INDEX runs_leased_by_tenant ON runs (tenant) WHERE status = 2;
CREATE INDEX runs_timers ON runs (wake_at) WHERE status = 3 AND wake_at IS NOT NULL;
CREATE INDEX runs_deadlines ON runs (deadline) WHERE status < 5 AND deadline IS NOT NULL;

CREATE TABLE events (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    run_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    message_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
);

CREATE TABLE inputs (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    conversation_id TEXT NOT NULL,
    PRIMARY KEY (tenant, run_id, sequence)
) WITHOUT ROWID;

CREATE TABLE steps (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    step_key TEXT NOT NULL,
    kind INTEGER NOT NULL,
    request_digest BLOB NOT NULL,
    fence INTEGER NOT NULL,
    attempt_id TEXT NOT NULL,
    recorded INTEGER NOT NULL,
    result BLOB NOT NULL,
    encoding TEXT NOT NULL,
    key_id TEXT NOT NULL,
    reservation TEXT NOT NULL,
    record TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    PRIMARY KEY (tenant, run_id, turn, step_key)
);

CREATE TABLE committed_turns (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    content TEXT NOT NULL,
    status INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    checkpoint_id TEXT NOT NULL,
    previous_checkpoint_id TEXT NOT NULL,
    message_ids TEXT NOT NULL,
    previous_message INTEGER NOT NULL,
    previous_read INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    next_fence INTEGER NOT NULL,
    PRIMARY KEY (tenant, run_id, turn)
);

CREATE TABLE checkpoints (
    tenant TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    data BLOB NOT NULL,
    encoding TEXT NOT NULL,
    key_id TEXT NOT NULL,
    base_id TEXT NOT NULL,
    PRIMARY KEY (tenant, checkpoint_id)
);
CREATE INDEX checkpoints_by_run ON checkpoints (tenant, run_id);

CREATE TABLE raised_fences (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    conversation_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    raised_at INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    PRIMARY KEY (tenant, run_id, fence)
) WITHOUT ROWID;
CREATE INDEX raised_fences_newest ON raised_fences (raised_at);

CREATE TABLE requests (
    tenant TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    response BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
CREATE INDEX requests_expiry ON requests (expires_at);

CREATE TABLE documents (
    tenant TEXT NOT NULL,
    kind INTEGER NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, name, version)
);

CREATE TABLE api_keys (
    tenant TEXT NOT NULL,
    key_id TEXT NOT NULL,
    role INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    hash BLOB NOT NULL,
    PRIMARY KEY (tenant, key_id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
