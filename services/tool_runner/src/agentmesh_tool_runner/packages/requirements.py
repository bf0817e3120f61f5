"""What a program needs, and why it may not have it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """One package in exactly one version.

    With `sha256`, only files of these digests; without, those that the index vouches for.
    """

    name: str
    version: str
    sha256: tuple[str, ...] = ()

    @property
    def normalized(self) -> str:
        """The name as indexes have it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class PackageWish:
    """All that an execution needs. `index_url` may be empty for the first one that is allowed."""

    index_url: str = ""
    requirements: tuple[Requirement, ...] = ()


class PackagesNotAllowedError(Exception):
    """No package may be installed here, or not from there, or not this file."""


class UnknownPackageError(Exception):
    """The index has no wheel of it that the sandbox's interpreter takes."""


class PackagesUnavailableError(Exception):
    """The index does not answer as one."""
