"""The public services: each translates between the public contract and the mesh behind it."""
