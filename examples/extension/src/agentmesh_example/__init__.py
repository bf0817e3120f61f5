"""Components for agentmesh: one of each kind."""
