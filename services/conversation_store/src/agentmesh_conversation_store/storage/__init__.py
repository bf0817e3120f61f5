"""Where the store keeps things: one interface, and the adapters behind it."""
