-- Whose conversations are, and who else may read them or take part. Those from before have no owner, and
-- everybody of the tenant may read them, as before.
ALTER TABLE conversations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN visibility INTEGER NOT NULL DEFAULT 2;
CREATE INDEX conversations_by_owner
    ON conversations (tenant, owner, started_at DESC, conversation_id DESC) WHERE owner <> '';
CREATE INDEX conversations_open
    ON conversations (tenant, started_at DESC, conversation_id DESC) WHERE visibility = 2;

CREATE TABLE conversation_grants (
    tenant TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    grantee TEXT NOT NULL,
    access INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    granted_by TEXT NOT NULL,
    granted_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, conversation_id, grantee)
) WITHOUT ROWID;
CREATE INDEX conversation_grants_by_grantee
    ON conversation_grants (tenant, grantee, started_at DESC, conversation_id DESC);

ALTER TABLE tenant_policies ADD COLUMN default_visibility INTEGER NOT NULL DEFAULT 1;
