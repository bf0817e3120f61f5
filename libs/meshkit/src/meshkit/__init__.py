"""What every agentmesh service needs and none owns: one way to serve and to call."""

from meshkit.process import poll_in_one_thread

poll_in_one_thread()  # here, since whoever serves or calls imports this before gRPC
