"""Figures for monitoring: those of the gateway, and those that it gathers."""
