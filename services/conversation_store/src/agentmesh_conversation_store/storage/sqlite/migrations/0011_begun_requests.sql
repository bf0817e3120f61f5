-- See the migrations of Postgres.
ALTER TABLE requests ADD COLUMN note BLOB NOT NULL DEFAULT x'';
ALTER TABLE requests ADD COLUMN noted_by TEXT NOT NULL DEFAULT '';
UPDATE requests SET noted_by = claim_id WHERE claim_id <> '';
