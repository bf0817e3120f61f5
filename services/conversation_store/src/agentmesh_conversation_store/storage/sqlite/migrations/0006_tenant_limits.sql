-- More limits of tenants; NULL: none of the tenant's own.
ALTER TABLE tenant_policies ADD COLUMN max_queued_runs INTEGER;
ALTER TABLE tenant_policies ADD COLUMN requests_per_second INTEGER;
ALTER TABLE tenant_policies ADD COLUMN requests_per_second_per_principal INTEGER;
ALTER TABLE tenant_policies ADD COLUMN max_open_streams INTEGER;
ALTER TABLE tenant_policies ADD COLUMN max_open_streams_per_principal INTEGER;
