"""Who did what through this gateway: audit records and the access log."""
