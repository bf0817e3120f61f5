"""The gRPC services: each translates between the contracts and the store's own values."""
