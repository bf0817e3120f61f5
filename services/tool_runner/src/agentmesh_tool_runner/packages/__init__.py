"""Python packages that programs need: fetched by the service from allowed indexes, as wheels only.

A sandbox has no network, and building a package runs its code: so the service fetches wheels, whose
digests it checks, and the sandbox unpacks them under its own limits (`languages.wheels`).
"""

from .fetching import Packages
from .requirements import (
    PackagesNotAllowedError,
    PackagesUnavailableError,
    PackageWish,
    Requirement,
    UnknownPackageError,
)

__all__ = [
    "PackageWish",
    "Packages",
    "PackagesNotAllowedError",
    "PackagesUnavailableError",
    "Requirement",
    "UnknownPackageError",
]
