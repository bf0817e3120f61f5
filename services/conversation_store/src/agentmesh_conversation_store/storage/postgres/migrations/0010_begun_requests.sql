-- Whoever carries out a claimed request notes that the work begins: a claim without a note did nothing.
ALTER TABLE requests ADD COLUMN note BYTEA NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN noted_by TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE requests SET noted_by = claim_id WHERE claim_id <> '';
