"""Between the contracts' messages and the store's own values."""
