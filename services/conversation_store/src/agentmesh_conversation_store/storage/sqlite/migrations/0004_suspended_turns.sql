-- Turns that were given back in their middle, and what they wait for.
ALTER TABLE runs ADD COLUMN suspension TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN asked_in_turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN within_turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN approve_on_expiry INTEGER NOT NULL DEFAULT 0;

-- What nobody decides goes to another role.
ALTER TABLE approvals ADD COLUMN escalate_at INTEGER;
ALTER TABLE approvals ADD COLUMN escalate_to INTEGER NOT NULL DEFAULT 0;
ALTER TABLE approvals ADD COLUMN escalated_at INTEGER;
CREATE INDEX approvals_escalation ON approvals (escalate_at)
    WHERE status = 1 AND escalate_at IS NOT NULL;
