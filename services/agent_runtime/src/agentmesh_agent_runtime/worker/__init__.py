"""Takes leased turns, many at once, and gives them back in one way or another."""
