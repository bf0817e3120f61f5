"""The tools that agents can call: of this service, of packages."""
