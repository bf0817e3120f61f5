-- The files of conversations: as they are, as the newest committed turn of the root run left them, and
-- as the turn before that one did; and the tool_runner that has them open.
ALTER TABLE conversations ADD COLUMN workspace_generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN workspace_manifest TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN kept_generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN kept_manifest TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN before_generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN before_manifest TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN runner_address TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX conversations_by_workspace ON conversations (tenant, workspace_manifest)
    WHERE workspace_manifest <> '';
CREATE INDEX conversations_by_kept ON conversations (tenant, kept_manifest)
    WHERE kept_manifest <> '';
CREATE INDEX conversations_by_before ON conversations (tenant, before_manifest)
    WHERE before_manifest <> '';

ALTER TABLE milestones ADD COLUMN workspace_generation BIGINT NOT NULL DEFAULT 0;
ALTER TABLE milestones ADD COLUMN workspace_manifest TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX milestones_by_workspace ON milestones (tenant, workspace_manifest)
    WHERE workspace_manifest <> '';
ALTER TABLE checkpoints ADD COLUMN workspace_generation BIGINT NOT NULL DEFAULT 0;

-- Which blobs the files of each manifest lie in, and the conversation that it was made in. Rows go
-- when no state of a conversation and no milestone names the manifest any more.
CREATE TABLE workspace_blobs (
    tenant TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    conversation_id TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (tenant, manifest, digest)
);
CREATE INDEX workspace_blobs_by_digest ON workspace_blobs (tenant, digest);
CREATE INDEX workspace_blobs_by_conversation ON workspace_blobs (tenant, conversation_id);

-- Not a fence, but the word that a conversation waits.
ALTER TABLE raised_fences ADD COLUMN rests BIGINT NOT NULL DEFAULT 0;
SELECT agentmesh_protect('workspace_blobs');
