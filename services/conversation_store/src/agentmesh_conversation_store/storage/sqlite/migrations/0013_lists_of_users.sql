-- Lists of users look up what waits for people and what was consumed by the conversations that they may read.
CREATE INDEX usage_hours_by_conversation ON usage_hours (conversation_id, hour);
DROP INDEX approvals_unanswered;
CREATE INDEX approvals_by_status ON approvals (tenant, status, requested_at, approval_id);
CREATE INDEX conversations_open_by_owner
    ON conversations (tenant, owner, started_at DESC, conversation_id DESC)
    WHERE visibility = 2 AND owner <> '';
