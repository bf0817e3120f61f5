"""Isolation and bounds for untrusted code."""
