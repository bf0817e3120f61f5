"""How much each caller may have, and what is refused first when there is too much to do."""
