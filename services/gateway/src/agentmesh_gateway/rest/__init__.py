"""REST and server-sent events, derived from the contracts' descriptors."""
