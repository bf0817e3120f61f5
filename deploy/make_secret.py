"""Writes the settings file that the services of one compose project share, unless it is there:
the secret that signs their calls to each other. Run as `make_secret.py FILE`, in an image."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def main(file: Path) -> None:
    if file.exists():
        return
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"internal_secret: {secrets.token_hex(32)}\n")
    draft.replace(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
