"""Attacks as data: what hostile code tries. Standard library only, for they run in sandboxes."""
