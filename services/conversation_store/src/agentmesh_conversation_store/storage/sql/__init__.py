"""Everything the store asks of a database, once, as plans; each database only drives them."""
