"""Tenants, roles, subjects and scopes that come from outside, and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from meshkit.errors import MeshError
from meshkit.policy import known_scopes
from meshkit.roles import Role

TENANT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}"
_TENANT = re.compile(TENANT_PATTERN)
_SUBJECT = re.compile(r"[\x21-\x7e]{1,256}")
# Names that the mesh itself gives, and those of certificates: nobody else may answer to them.
_RESERVED = re.compile(r"(key|conv|run|msg)_.*|spiffe://.*|anonymous|system|command line")
_HIGHEST_FIRST = (Role.ADMIN, Role.OPERATOR, Role.SERVICE, Role.USER, Role.VIEWER)


def tenant_named(value: object, where: str) -> str:
    """`value` if it can be a tenant. Raises MeshError UNAUTHENTICATED."""
    if isinstance(value, str) and _TENANT.fullmatch(value):
        return value
    raise MeshError.credentials_invalid(f"{where} names no tenant")


def subject_named(value: object, where: str, prefix: str = "") -> str:
    """`value` with its prefix if it can be a subject. Raises MeshError UNAUTHENTICATED."""
    subject = f"{prefix}{value}" if isinstance(value, str) and value else ""
    if not _SUBJECT.fullmatch(subject):
        raise MeshError.credentials_invalid(f"{where} names no subject")
    if _RESERVED.fullmatch(subject):
        raise MeshError.credentials_invalid(
            f"{where} names a subject that the mesh keeps to itself"
        )
    return subject


def highest_role(values: Iterable[str], names: Mapping[str, Role]) -> Role | None:
    """The one that includes most of the roles that `values` mean."""
    found = {names[value] for value in values if value in names}
    return next((role for role in _HIGHEST_FIRST if role in found), None)


def scopes_among(values: Iterable[str], prefix: str = "") -> frozenset[str]:
    """Those of `values` that are scopes of the mesh."""
    named = {value.removeprefix(prefix) for value in values if value.startswith(prefix)}
    return frozenset(named & set(known_scopes()))
