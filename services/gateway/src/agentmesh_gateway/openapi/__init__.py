"""What REST is, as an OpenAPI 3.1 document made of the contracts that REST itself is made of."""
