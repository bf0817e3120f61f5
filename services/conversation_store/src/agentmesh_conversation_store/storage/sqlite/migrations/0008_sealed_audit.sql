-- See the migrations of Postgres.
ALTER TABLE audit_records RENAME TO unsealed_audit_records;
CREATE TABLE audit_records (
    tenant TEXT NOT NULL,
    record_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    principal TEXT NOT NULL,
    method TEXT NOT NULL,
    resource TEXT NOT NULL,
    code TEXT NOT NULL,
    peer TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (tenant, record_id)
) WITHOUT ROWID;
INSERT INTO audit_records
    SELECT tenant, batch_id || ':' || ordinal, time, principal, method, resource, code, peer, '', '', 0
    FROM unsealed_audit_records;
DROP TABLE unsealed_audit_records;
CREATE INDEX audit_records_by_time ON audit_records (tenant, time, record_id);
CREATE INDEX audit_records_to_seal ON audit_records (tenant, time, record_id) WHERE sequence = 0;
CREATE UNIQUE INDEX audit_records_by_sequence ON audit_records (tenant, sequence)
    WHERE sequence > 0;
CREATE TABLE audit_seals (
    tenant TEXT NOT NULL,
    number INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    sealed_at INTEGER NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL,
    signature BLOB NOT NULL,
    key_id TEXT NOT NULL,
    PRIMARY KEY (tenant, number)
) WITHOUT ROWID;
CREATE TABLE audit_cuts (
    tenant TEXT NOT NULL,
    through_sequence INTEGER NOT NULL,
    cut_at INTEGER NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (tenant, through_sequence)
) WITHOUT ROWID;
CREATE TRIGGER audit_records_unchanged BEFORE UPDATE ON audit_records
WHEN NOT (OLD.sequence = 0 AND NEW.sequence > 0
    AND (NEW.tenant, NEW.record_id, NEW.time, NEW.principal, NEW.method, NEW.resource,
         NEW.code, NEW.peer, NEW.trace_id, NEW.request_id)
      = (OLD.tenant, OLD.record_id, OLD.time, OLD.principal, OLD.method, OLD.resource,
         OLD.code, OLD.peer, OLD.trace_id, OLD.request_id))
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_records_kept BEFORE DELETE ON audit_records
WHEN OLD.sequence = 0 OR NOT EXISTS (
    SELECT 1 FROM audit_cuts WHERE tenant = OLD.tenant AND through_sequence >= OLD.sequence)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_seals_unchanged BEFORE UPDATE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_seals_kept BEFORE DELETE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_cuts_unchanged BEFORE UPDATE ON audit_cuts
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_cuts_kept BEFORE DELETE ON audit_cuts
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
