"""ToolRunnerService: protobuf in, plain calls, protobuf out. One module for each concern."""
