"""Requests that may come twice: those carried out here, and what those of the store were answered.

Whatever the store carries out itself it remembers in the same transaction. What changes workspaces,
sandboxes and blobs is claimed at the store before it begins, on whatever replica; that it begins
is noted there, and its answer is kept for a day.
"""
