"""The ports of turns over gRPC. Nothing else in this service knows protobuf but the servicer."""
