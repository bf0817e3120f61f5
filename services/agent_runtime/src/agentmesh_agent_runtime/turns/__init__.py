"""One turn of a run: rebuild the team, let it take its turn, record each effect, commit."""
