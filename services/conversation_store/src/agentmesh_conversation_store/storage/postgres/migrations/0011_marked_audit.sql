-- A record is marked by the process that writes it, under a key that the database does not have, and only
-- what is marked is sealed. Seals cover a digest of their records, so that they can be checked when
-- those are removed.
ALTER TABLE audit_records ADD COLUMN mac BYTEA NOT NULL DEFAULT '';
CREATE INDEX audit_records_put_aside ON audit_records (tenant, time, record_id) WHERE sequence < 0;
ALTER TABLE audit_seals ADD COLUMN content BYTEA NOT NULL DEFAULT '';
CREATE INDEX audit_seals_by_end ON audit_seals (tenant, last_sequence);

-- Until when records without a mark pass: the store signs it once, as it upgrades the database.
CREATE TABLE audit_cut_overs (
    tenant TEXT COLLATE "C" NOT NULL,
    through BIGINT NOT NULL,
    signature BYTEA NOT NULL,
    PRIMARY KEY (tenant, through)
);

-- The newest cut says all that those before it say, which retention removes.
-- A record gets its place once. One that the store did not write is put aside (-1), from a place that no
-- seal covers; if it turns out that it did, as when keys are exchanged, it waits again.
CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'audit_records' THEN
        IF TG_OP = 'UPDATE' AND OLD.sequence <> NEW.sequence
            AND (OLD.sequence = 0
                OR OLD.sequence = -1 AND NEW.sequence = 0
                OR NEW.sequence = -1 AND NOT EXISTS (
                    SELECT 1 FROM audit_seals WHERE audit_seals.tenant = OLD.tenant
                    AND audit_seals.last_sequence >= OLD.sequence))
            AND (NEW.tenant, NEW.record_id, NEW.time, NEW.principal, NEW.method, NEW.resource,
                 NEW.code, NEW.peer, NEW.trace_id, NEW.request_id, NEW.mac)
              = (OLD.tenant, OLD.record_id, OLD.time, OLD.principal, OLD.method, OLD.resource,
                 OLD.code, OLD.peer, OLD.trace_id, OLD.request_id, OLD.mac)
        THEN
            RETURN NEW;
        END IF;
        IF TG_OP = 'DELETE' AND OLD.sequence > 0 AND EXISTS (
            SELECT 1 FROM audit_cuts
            WHERE audit_cuts.tenant = OLD.tenant AND through_sequence >= OLD.sequence)
        THEN
            RETURN OLD;
        END IF;
    END IF;
    IF TG_TABLE_NAME = 'audit_cuts' AND TG_OP = 'DELETE' THEN
        IF EXISTS (
            SELECT 1 FROM audit_cuts
            WHERE audit_cuts.tenant = OLD.tenant AND through_sequence > OLD.through_sequence)
        THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
CREATE TRIGGER audit_cut_overs_append_only BEFORE UPDATE OR DELETE ON audit_cut_overs
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();

SELECT agentmesh_protect('audit_cut_overs');
