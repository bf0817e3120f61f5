"""The HTTP server: connections, their limits, and what every response carries."""
