"""Turns leased AutoGen turns into recorded steps and one commit."""
