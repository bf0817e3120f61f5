-- See the migrations of Postgres.
ALTER TABLE requests ADD COLUMN claim_id TEXT NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN held_until INTEGER NOT NULL DEFAULT 0;
