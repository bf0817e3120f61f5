"""Tools of installed packages, carried out by worker processes."""

from typing import Final

GROUP: Final = "agentmesh.tools"
"""The group of entry points that packages name their tools in."""
