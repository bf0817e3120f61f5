"""Large payloads, outside of the database."""
