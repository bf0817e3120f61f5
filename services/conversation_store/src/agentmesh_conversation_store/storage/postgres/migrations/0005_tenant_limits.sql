-- More limits of tenants; NULL: none of the tenant's own.
ALTER TABLE tenant_policies ADD COLUMN max_queued_runs BIGINT;
ALTER TABLE tenant_policies ADD COLUMN requests_per_second BIGINT;
ALTER TABLE tenant_policies ADD COLUMN requests_per_second_per_principal BIGINT;
ALTER TABLE tenant_policies ADD COLUMN max_open_streams BIGINT;
ALTER TABLE tenant_policies ADD COLUMN max_open_streams_per_principal BIGINT;
