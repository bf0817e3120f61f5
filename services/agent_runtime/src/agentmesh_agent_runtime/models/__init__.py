"""Where replies come from: servers that speak the OpenAI wire format, and the scripted model."""
