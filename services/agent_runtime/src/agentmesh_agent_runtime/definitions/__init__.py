"""Agents and teams: their specs, their YAML, and how they are checked."""
