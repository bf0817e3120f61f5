"""The agentmesh command: start a mesh, run and watch conversations."""

__version__ = "0.1.0"
