"""What every agentmesh service needs and none owns: one way to serve and to call."""

from meshkit.process import import_grpc

import_grpc()  # here, since whoever serves or calls imports this before gRPC
