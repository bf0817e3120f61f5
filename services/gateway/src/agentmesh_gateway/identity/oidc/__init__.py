"""Tokens of OpenID Connect issuers: JWTs, checked against the keys that their issuer publishes."""
