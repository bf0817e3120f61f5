"""Agents and teams: how they are read, written, chosen and pinned."""
