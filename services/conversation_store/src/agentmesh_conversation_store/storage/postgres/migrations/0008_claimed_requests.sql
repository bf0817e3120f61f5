-- Requests whose effects lie outside of the database are claimed before they are carried out.
ALTER TABLE requests ADD COLUMN claim_id TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE requests ADD COLUMN held_until BIGINT NOT NULL DEFAULT 0;
