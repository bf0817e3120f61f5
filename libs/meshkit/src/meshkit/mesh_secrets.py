"""The secrets that the services of one mesh share: the first signs, all of them are accepted.

Two at a time let one replace the other without a moment in which a service is not understood:
first every service accepts the new one, then every service signs with it, then the old one goes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshkit.settings import MINIMUM_SECRET_CHARACTERS, ServiceSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How soon a changed file is noticed."""

_LARGEST_FILE = 64 * 1024
# Known to everybody, and therefore only good where nobody else can connect: ServiceHost refuses to
# listen beyond loopback without a secret.
_DEVELOPMENT_SECRET = b"agentmesh development secret, loopback only"


@dataclass(frozen=True, slots=True)
class MeshKeys:
    """What one secret gives. `kid` names it in the tokens that it signs, and gives nothing away."""

    secret: bytes
    kid: str
    internal: bytes
    capability: bytes

    @classmethod
    def of(cls, secret: bytes) -> MeshKeys:
        """The keys of a secret, one for each purpose, so that no token passes for another kind."""
        return cls(
            secret,
            derive(secret, "kid").hex()[:16],
            derive(secret, "internal-token"),
            derive(secret, "run-capability"),
        )


def derive(secret: bytes, purpose: str) -> bytes:
    """32 bytes that whoever knows the secret can make, and nobody else."""
    return hmac.new(secret, f"agentmesh/{purpose}/1".encode(), hashlib.sha256).digest()


class MeshSecrets:
    """The keys of this process; those of a file follow the file while the process runs."""

    def __init__(
        self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = settings.internal_secret_file
        self._clock = clock
        self._look_at = 0.0
        self._seen: tuple[int, ...] = ()
        self.version = 0
        """Another number whenever the keys are others."""
        if self._file is None:
            given = (settings.internal_secret, settings.internal_secret_accepted)
            found = [value.get_secret_value().encode() for value in given if value is not None]
            self._keys = _keys_of(found or [_DEVELOPMENT_SECRET])
        else:
            self._seen = _state(self._file)
            self._keys = _keys_of(read_secrets(self._file))

    def keys(self) -> Sequence[MeshKeys]:
        """Those that are accepted now; the first one signs."""
        if self._file is not None and self._clock() >= self._look_at:
            self._look(self._file)
        return self._keys

    def _look(self, file: Path) -> None:
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            seen = _state(file)
            if seen == self._seen:
                return
            keys = _keys_of(read_secrets(file))
        except (OSError, ValueError) as error:
            # The old ones go on: a file that is being written must not end the mesh.
            logger.error("the secrets stay as they were: %s", error)
            return
        self._seen = seen
        if [key.kid for key in keys] != [key.kid for key in self._keys]:
            self._keys = keys
            self.version += 1
            logger.info("the secrets are now %s", ", ".join(key.kid for key in keys))


def read_secrets(file: Path) -> list[bytes]:
    """One secret a line; empty lines and those that begin with # count for nothing. Raises OSError,
    and ValueError with one line for the operator."""
    with file.open("rb") as stream:
        content = stream.read(_LARGEST_FILE + 1)
    lines = [line.strip() for line in content.splitlines()]
    secrets = [line for line in lines if line and not line.startswith(b"#")]
    if not secrets or len(content) > _LARGEST_FILE:
        raise ValueError(f"{file} must have one secret a line, and be no larger than 64 KiB")
    if any(len(secret) < MINIMUM_SECRET_CHARACTERS for secret in secrets):
        raise ValueError(
            f"each secret in {file} must have at least {MINIMUM_SECRET_CHARACTERS} characters"
        )
    return secrets


def _keys_of(secrets: Sequence[bytes]) -> Sequence[MeshKeys]:
    return tuple(MeshKeys.of(secret) for secret in dict.fromkeys(secrets))


def _state(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
