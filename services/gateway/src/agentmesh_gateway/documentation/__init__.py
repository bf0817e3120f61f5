"""What people read of the API in a browser: the document at /openapi.json, and /docs to try it."""
