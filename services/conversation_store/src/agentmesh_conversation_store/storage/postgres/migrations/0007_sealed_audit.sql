-- Audit records are only ever added. A second later they get their place in their tenant's chain, and
-- retention removes the oldest ones; nothing else is done to them. Seals stay for good.
ALTER TABLE audit_records RENAME TO unsealed_audit_records;
CREATE TABLE audit_records (
    tenant TEXT COLLATE "C" NOT NULL,
    record_id TEXT COLLATE "C" NOT NULL,
    time BIGINT NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    method TEXT COLLATE "C" NOT NULL,
    resource TEXT COLLATE "C" NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    peer TEXT COLLATE "C" NOT NULL,
    trace_id TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    PRIMARY KEY (tenant, record_id)
);
INSERT INTO audit_records
    SELECT tenant, batch_id || ':' || ordinal, time, principal, method, resource, code, peer, '', '', 0
    FROM unsealed_audit_records;
DROP TABLE unsealed_audit_records;
CREATE INDEX audit_records_by_time ON audit_records (tenant, time, record_id);
CREATE INDEX audit_records_to_seal ON audit_records (tenant, time, record_id) WHERE sequence = 0;
CREATE UNIQUE INDEX audit_records_by_sequence ON audit_records (tenant, sequence)
    WHERE sequence > 0;

CREATE TABLE audit_seals (
    tenant TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    sealed_at BIGINT NOT NULL,
    previous BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, number)
);

-- Up to where retention removed a tenant's records.
CREATE TABLE audit_cuts (
    tenant TEXT COLLATE "C" NOT NULL,
    through_sequence BIGINT NOT NULL,
    cut_at BIGINT NOT NULL,
    signature BYTEA NOT NULL,
    PRIMARY KEY (tenant, through_sequence)
);

CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'audit_records' THEN
        IF TG_OP = 'UPDATE' AND OLD.sequence = 0 AND NEW.sequence > 0
            AND (NEW.tenant, NEW.record_id, NEW.time, NEW.principal, NEW.method, NEW.resource,
                 NEW.code, NEW.peer, NEW.trace_id, NEW.request_id)
              = (OLD.tenant, OLD.record_id, OLD.time, OLD.principal, OLD.method, OLD.resource,
                 OLD.code, OLD.peer, OLD.trace_id, OLD.request_id)
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
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;
CREATE TRIGGER audit_records_append_only BEFORE UPDATE OR DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_seals_append_only BEFORE UPDATE OR DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_cuts_append_only BEFORE UPDATE OR DELETE ON audit_cuts
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();

SELECT agentmesh_protect('audit_records');
SELECT agentmesh_protect('audit_seals');
SELECT agentmesh_protect('audit_cuts');
