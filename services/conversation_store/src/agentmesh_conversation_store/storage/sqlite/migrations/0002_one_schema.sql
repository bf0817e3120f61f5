-- What the store keeps on every database: agents by column, a feed of each tenant's events,
-- and where in the log checkpoints were committed.

CREATE TABLE conversation_agents (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, agent)
) WITHOUT ROWID;
INSERT INTO conversation_agents
    SELECT DISTINCT tenant, conversation_id, value FROM conversation_facts, json_each(agents);

ALTER TABLE events ADD COLUMN feed_position INTEGER NOT NULL DEFAULT 0;
UPDATE events SET feed_position = earlier.position FROM (
    SELECT rowid AS event, row_number() OVER (PARTITION BY tenant ORDER BY rowid) AS position
    FROM events
) AS earlier WHERE events.rowid = earlier.event;
CREATE UNIQUE INDEX events_feed ON events (tenant, feed_position);

CREATE TABLE tenant_feeds (
    tenant TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO tenant_feeds SELECT tenant, max(feed_position) FROM events GROUP BY tenant;

-- Where in the log a checkpoint was committed.
ALTER TABLE checkpoints ADD COLUMN conversation_id TEXT NOT NULL DEFAULT '';
ALTER TABLE checkpoints ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
UPDATE checkpoints SET conversation_id = runs.conversation_id FROM runs
    WHERE runs.tenant = checkpoints.tenant AND runs.run_id = checkpoints.run_id;
UPDATE checkpoints SET sequence = events.sequence FROM events
    WHERE events.tenant = checkpoints.tenant
    AND events.conversation_id = checkpoints.conversation_id
    AND events.run_id = checkpoints.run_id AND events.turn = checkpoints.turn
    AND events.kind = 'turn_committed';
CREATE INDEX checkpoints_by_sequence ON checkpoints (tenant, conversation_id, sequence);

-- Which events refer to which blobs.
CREATE TABLE blob_references (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence, digest)
) WITHOUT ROWID;
CREATE INDEX blob_references_by_digest ON blob_references (tenant, digest);

-- The words of what was said, and the index over them. What a word is is decided by the store:
-- the tokenizer has only to cut at spaces.
CREATE TABLE message_words (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    words TEXT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
);
CREATE VIRTUAL TABLE message_words_index USING fts5(
    words, content = 'message_words', tokenize = 'ascii', columnsize = 0
);
-- Parts of the index are joined when sixteen are of a size, not four: commits have less to do.
INSERT INTO message_words_index (message_words_index, rank) VALUES ('automerge', 16);
CREATE TRIGGER message_words_added AFTER INSERT ON message_words BEGIN
    INSERT INTO message_words_index (rowid, words) VALUES (new.rowid, new.words);
END;
CREATE TRIGGER message_words_removed AFTER DELETE ON message_words BEGIN
    INSERT INTO message_words_index (message_words_index, rowid, words)
    VALUES ('delete', old.rowid, old.words);
END;

-- What was consumed, by the hour. It stays when conversations are deleted: it is the bill.
CREATE TABLE usage_hours (
    tenant TEXT NOT NULL,
    hour INTEGER NOT NULL,
    conversation_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    model_calls INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    sandbox_cpu_ms INTEGER NOT NULL,
    cost_micros INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour, conversation_id, agent, model)
) WITHOUT ROWID;
INSERT INTO usage_hours SELECT tenant, started_at - started_at % 3600000000, conversation_id, '', '',
    json_extract(numbers, '$[0]'),
    json_extract(numbers, '$[1]'),
    json_extract(numbers, '$[2]'),
    json_extract(numbers, '$[3]'),
    json_extract(numbers, '$[4]'),
    json_extract(numbers, '$[5]'),
    json_extract(numbers, '$[6]'),
    json_extract(numbers, '$[7]'),
    json_extract(numbers, '$[8]')
    FROM (SELECT *, '[' || usage || ']' AS numbers FROM conversations WHERE usage <> '');

CREATE TABLE tenant_policies (
    tenant TEXT NOT NULL PRIMARY KEY,
    max_active_runs INTEGER,
    daily_budget TEXT NOT NULL,
    retention_age INTEGER,
    retention_events INTEGER,
    version INTEGER NOT NULL
) WITHOUT ROWID;

-- What each tenant consumed of its day, and what its open steps reserve. Of another day only the
-- reservations count.
CREATE TABLE tenant_days (
    tenant TEXT NOT NULL PRIMARY KEY,
    day INTEGER NOT NULL,
    turns INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost_micros INTEGER NOT NULL,
    reserved_tokens INTEGER NOT NULL,
    reserved_cost_micros INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO tenant_days SELECT tenant, 0, 0, 0, 0,
    sum(json_extract(numbers, '$[0]') + json_extract(numbers, '$[1]')),
    sum(json_extract(numbers, '$[7]'))
    FROM (SELECT *, '[' || reserved || ']' AS numbers FROM runs WHERE reserved <> '')
    GROUP BY tenant;

CREATE TABLE audit_records (
    tenant TEXT NOT NULL,
    time INTEGER NOT NULL,
    batch_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    principal TEXT NOT NULL,
    method TEXT NOT NULL,
    resource TEXT NOT NULL,
    code TEXT NOT NULL,
    peer TEXT NOT NULL,
    PRIMARY KEY (tenant, time, batch_id, ordinal)
) WITHOUT ROWID;
INSERT INTO message_words
    SELECT tenant, conversation_id, sequence, agentmesh_words(data) FROM events
    WHERE kind IN ('message', 'conversation_started') AND agentmesh_words(data) <> '';

-- Forks, retention and removal; see the migrations of Postgres.
ALTER TABLE conversations ADD COLUMN removed_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN last_event_at INTEGER NOT NULL DEFAULT 0;
UPDATE conversations SET last_event_at = max(started_at, coalesce(completed_at, 0));
ALTER TABLE conversation_facts ADD COLUMN legal_hold INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversation_facts ADD COLUMN retention_age INTEGER;
ALTER TABLE conversation_facts ADD COLUMN retention_events INTEGER;
CREATE INDEX conversation_facts_retention ON conversation_facts (tenant)
    WHERE retention_age IS NOT NULL OR retention_events IS NOT NULL;
CREATE INDEX runs_by_conversation ON runs (tenant, conversation_id);
CREATE INDEX checkpoints_by_base ON checkpoints (tenant, base_id) WHERE base_id <> '';

CREATE INDEX events_inputs ON events (tenant, conversation_id, sequence)
    WHERE kind = 'message' AND turn = 0;

CREATE TABLE shared_history (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    log_id TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, last_sequence)
) WITHOUT ROWID;
CREATE INDEX shared_history_by_log ON shared_history (tenant, log_id);

CREATE TABLE milestones (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    committed_at INTEGER NOT NULL,
    checkpoint_id TEXT NOT NULL,
    inbox_read INTEGER NOT NULL,
    before_sequence INTEGER NOT NULL,
    before_bytes INTEGER NOT NULL,
    before_messages INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id, sequence)
) WITHOUT ROWID;
-- When a turn was committed was not kept so far: no turn counts as older than this change.
INSERT INTO milestones
    SELECT t.tenant, r.conversation_id, e.sequence,
        CAST(strftime('%s', 'now') AS INTEGER) * 1000000, t.checkpoint_id,
        coalesce(
            (SELECT n.previous_read FROM committed_turns n WHERE n.tenant = t.tenant
                AND n.run_id = t.run_id AND n.turn > t.turn ORDER BY n.turn LIMIT 1),
            r.inbox_read),
        0, 0, 0
    FROM committed_turns t
    JOIN runs r ON r.tenant = t.tenant AND r.run_id = t.run_id
    JOIN events e ON e.tenant = t.tenant AND e.conversation_id = r.conversation_id
        AND e.run_id = t.run_id AND e.turn = t.turn AND e.kind = 'turn_committed'
    WHERE r.parent_run_id = '' AND t.discarded = 0;

CREATE TABLE removals (
    tenant TEXT NOT NULL,
    log_id TEXT NOT NULL,
    requested_at INTEGER NOT NULL,
    position INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, log_id)
) WITHOUT ROWID;
CREATE INDEX removals_oldest ON removals (requested_at);

-- What waits for a person.
CREATE TABLE approvals (
    tenant TEXT NOT NULL,
    approval_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    agent TEXT NOT NULL,
    prompt TEXT NOT NULL,
    tool_call BLOB NOT NULL,
    requested_at INTEGER NOT NULL,
    requested_sequence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    role INTEGER NOT NULL,
    status INTEGER NOT NULL,
    principal TEXT NOT NULL,
    comment TEXT NOT NULL,
    edited_arguments_json TEXT NOT NULL,
    resolved_at INTEGER,
    PRIMARY KEY (tenant, approval_id)
);
CREATE INDEX approvals_oldest ON approvals (tenant, requested_at, approval_id);
CREATE INDEX approvals_by_conversation ON approvals (tenant, conversation_id, requested_at);
CREATE INDEX approvals_pending ON approvals (tenant, run_id) WHERE status = 1;
CREATE INDEX approvals_expiry ON approvals (expires_at) WHERE status = 1;
CREATE INDEX approvals_unanswered ON approvals (tenant, requested_at, approval_id)
    WHERE status = 1;

-- Where the agents of a child run appear, and how much each run waits for people.
ALTER TABLE runs ADD COLUMN agent_path TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN pending_approvals INTEGER NOT NULL DEFAULT 0;

-- What says how the other events count as context.
CREATE INDEX events_marks ON events (tenant, conversation_id, sequence)
    WHERE kind IN ('context_summary', 'turn_discarded');

-- Conversations that are being imported, and when their importer was heard of last. Their events are
-- there before they are; in the tenant's feed they stand at negative places until then.
CREATE TABLE imports (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    place INTEGER NOT NULL,
    heard_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id)
) WITHOUT ROWID;
