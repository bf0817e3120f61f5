-- The files of conversations: as they are, as the newest committed turn of the root run left them, and
-- as the turn before that one did; and the tool_runner that has them open.
ALTER TABLE conversations ADD COLUMN workspace_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN workspace_manifest TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN kept_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN kept_manifest TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN before_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN before_manifest TEXT NOT NULL DEFAULT '';
ALTER TABLE conversations ADD COLUMN runner_address TEXT NOT NULL DEFAULT '';
CREATE INDEX conversations_by_workspace ON conversations (tenant, workspace_manifest)
    WHERE workspace_manifest <> '';
CREATE INDEX conversations_by_kept ON conversations (tenant, kept_manifest)
    WHERE kept_manifest <> '';
CREATE INDEX conversations_by_before ON conversations (tenant, before_manifest)
    WHERE before_manifest <> '';

ALTER TABLE milestones ADD COLUMN workspace_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE milestones ADD COLUMN workspace_manifest TEXT NOT NULL DEFAULT '';
CREATE INDEX milestones_by_workspace ON milestones (tenant, workspace_manifest)
    WHERE workspace_manifest <> '';
ALTER TABLE checkpoints ADD COLUMN workspace_generation INTEGER NOT NULL DEFAULT 0;

-- Which blobs the files of each manifest lie in, and the conversation that it was made in. Rows go
-- when no state of a conversation and no milestone names the manifest any more.
CREATE TABLE workspace_blobs (
    tenant TEXT NOT NULL,
    manifest TEXT NOT NULL,
    digest TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (tenant, manifest, digest)
) WITHOUT ROWID;
CREATE INDEX workspace_blobs_by_digest ON workspace_blobs (tenant, digest);
CREATE INDEX workspace_blobs_by_conversation ON workspace_blobs (tenant, conversation_id);

-- Not a fence, but the word that a conversation waits.
ALTER TABLE raised_fences ADD COLUMN rests INTEGER NOT NULL DEFAULT 0;
