"""Turns what the mesh says into text for people, and into JSON for programs."""
