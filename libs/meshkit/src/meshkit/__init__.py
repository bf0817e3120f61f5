"""What every agentmesh service needs and none owns: one way to serve and to call."""
