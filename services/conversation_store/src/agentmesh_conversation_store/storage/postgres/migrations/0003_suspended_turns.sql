-- Turns that were given back in their middle, and what they wait for.
ALTER TABLE runs ADD COLUMN suspension TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN asked_in_turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN within_turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN approve_on_expiry BIGINT NOT NULL DEFAULT 0;

-- What nobody decides goes to another role.
ALTER TABLE approvals ADD COLUMN escalate_at BIGINT;
ALTER TABLE approvals ADD COLUMN escalate_to BIGINT NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN escalated_at BIGINT;
CREATE INDEX approvals_escalation ON approvals (escalate_at)
    WHERE status = 1 AND escalate_at IS NOT NULL;
