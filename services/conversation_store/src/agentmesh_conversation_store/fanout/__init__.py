"""How replicas and streams hear of what happened. Notices are hints: the log is the truth."""
