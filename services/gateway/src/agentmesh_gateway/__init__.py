"""The one door of agentmesh: the public gRPC API, REST and server-sent events."""
