"""The durable side of agentmesh: log, runs, leases, steps, checkpoints, catalog and keys."""
