-- See the migrations of Postgres.
ALTER TABLE audit_records ADD COLUMN mac BLOB NOT NULL DEFAULT x'';
CREATE INDEX audit_records_put_aside ON audit_records (tenant, time, record_id) WHERE sequence < 0;
ALTER TABLE audit_seals ADD COLUMN content BLOB NOT NULL DEFAULT x'';
CREATE INDEX audit_seals_by_end ON audit_seals (tenant, last_sequence);
CREATE TABLE audit_cut_overs (
    tenant TEXT NOT NULL,
    through INTEGER NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (tenant, through)
) WITHOUT ROWID;
DROP TRIGGER audit_records_unchanged;
CREATE TRIGGER audit_records_unchanged BEFORE UPDATE ON audit_records
WHEN NOT (OLD.sequence <> NEW.sequence
    AND (OLD.sequence = 0
        OR OLD.sequence = -1 AND NEW.sequence = 0
        OR NEW.sequence = -1 AND NOT EXISTS (
            SELECT 1 FROM audit_seals WHERE tenant = OLD.tenant
            AND last_sequence >= OLD.sequence))
    AND (NEW.tenant, NEW.record_id, NEW.time, NEW.principal, NEW.method, NEW.resource,
         NEW.code, NEW.peer, NEW.trace_id, NEW.request_id, NEW.mac)
      = (OLD.tenant, OLD.record_id, OLD.time, OLD.principal, OLD.method, OLD.resource,
         OLD.code, OLD.peer, OLD.trace_id, OLD.request_id, OLD.mac))
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
DROP TRIGGER audit_cuts_kept;
CREATE TRIGGER audit_cuts_kept BEFORE DELETE ON audit_cuts
WHEN NOT EXISTS (
    SELECT 1 FROM audit_cuts
    WHERE tenant = OLD.tenant AND through_sequence > OLD.through_sequence)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_cut_overs_unchanged BEFORE UPDATE ON audit_cut_overs
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_cut_overs_kept BEFORE DELETE ON audit_cut_overs
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
