"""Workflows: what is registered, what they are executed with, and how far they are."""
