"""Runs what models write, in sandboxes."""
