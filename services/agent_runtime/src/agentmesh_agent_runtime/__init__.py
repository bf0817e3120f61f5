"""Turns leased AutoGen turns into recorded steps and one commit."""

import meshkit  # noqa: F401  before AutoGen imports gRPC
