-- Whose conversations are, and who else may read them or take part. Those from before have no owner, and
-- everybody of the tenant may read them, as before.
ALTER TABLE conversations ADD COLUMN owner TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN visibility BIGINT NOT NULL DEFAULT 2;
CREATE INDEX conversations_by_owner
    ON conversations (tenant, owner, started_at DESC, conversation_id DESC) WHERE owner <> '';
CREATE INDEX conversations_open
    ON conversations (tenant, started_at DESC, conversation_id DESC) WHERE visibility = 2;

CREATE TABLE conversation_grants (
    tenant TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    grantee TEXT COLLATE "C" NOT NULL,
    access BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    granted_by TEXT COLLATE "C" NOT NULL,
    granted_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, conversation_id, grantee)
);
CREATE INDEX conversation_grants_by_grantee
    ON conversation_grants (tenant, grantee, started_at DESC, conversation_id DESC);
SELECT agentmesh_protect('conversation_grants');

ALTER TABLE tenant_policies ADD COLUMN default_visibility BIGINT NOT NULL DEFAULT 1;
