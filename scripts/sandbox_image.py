"""Builds the image that sandboxes of a Docker engine are made of, and gives it to an engine.

The image is a minimal Debian with Python and the packages that tools use, made by debootstrap
rather than pulled: an operator who has no registry can build it, and knows what is in it. It is
made once and kept as an archive named after what went into it.

    python scripts/sandbox_image.py [--root FOLDER] [--packages NAME,...] [--suite NAME]
        [--mirror URL] [--engine ADDRESS] [--tag NAME] [--only-archive | --check]

Needs root, debootstrap and tar. Prints the archive's path. The engine is the one of `--engine`, of
DOCKER_HOST, or the one of this machine. Standard library only, but for the engine's part.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[1] / "services/tool_runner/sandbox-requirements.txt"
DEFAULT_ROOT = Path("/var/lib/agentmesh/sandbox-image")
DEFAULT_TAG = "agentmesh/sandbox:latest"
DEFAULT_SUITE = "bookworm"
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
PACKAGES = ("python3", "ca-certificates")
# Changed when the layout changes, so that older archives are not taken for new ones.
LAYOUT = 1
# What a program has no use for; makes the image a third smaller.
LEFT_OUT = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)


class ImageError(Exception):
    """The image cannot be made; the message says what is missing."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT)
    parser.add_argument("--packages", default="", help="more of Debian's packages, by comma")
    parser.add_argument("--suite", default=DEFAULT_SUITE, choices=sorted(PYTHON))
    parser.add_argument("--mirror", default="")
    parser.add_argument("--engine", default=os.environ.get("DOCKER_HOST"))
    parser.add_argument("--tag", default=DEFAULT_TAG)
    parser.add_argument("--only-archive", action="store_true")
    parser.add_argument("--check", action="store_true", help="only say whether it is there")
    given = parser.parse_args(arguments)
    more = tuple(name for name in given.packages.split(",") if name)
    if given.check:
        return int(not archive_path(given.root, packages=more, suite=given.suite).exists())
    try:
        archive = build(given.root, packages=more, suite=given.suite, mirror=given.mirror)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    if not given.only_archive:
        import_into(given.engine, archive, given.tag)
    print(archive)
    return 0


def archive_path(
    root: Path = DEFAULT_ROOT, *, packages: Sequence[str] = (), suite: str = DEFAULT_SUITE
) -> Path:
    """Where the archive is, or will be."""
    parts = [str(LAYOUT), suite, platform.machine(), *PACKAGES, *packages]
    text = "\n".join(parts).encode() + REQUIREMENTS.read_bytes()
    return root / f"sandbox-{hashlib.sha256(text).hexdigest()[:16]}.tar"


def build(
    root: Path = DEFAULT_ROOT,
    *,
    packages: Sequence[str] = (),
    suite: str = DEFAULT_SUITE,
    mirror: str = "",
) -> Path:
    """Makes the archive unless it is there. Raises ImageError."""
    archive = archive_path(root, packages=packages, suite=suite)
    if archive.exists():
        return archive
    if os.geteuid() != 0:
        raise ImageError("only root can build the image")
    if shutil.which("debootstrap") is None:
        raise ImageError("debootstrap is missing: install the package debootstrap")
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=root, prefix=".building-") as folder:
                _build(Path(folder), archive, [*PACKAGES, *packages], suite, mirror)
    return archive


def _build(folder: Path, archive: Path, packages: Sequence[str], suite: str, mirror: str) -> None:
    tree = folder / "tree"
    include = f"--include={','.join(packages)}"
    made = ["debootstrap", "--variant=minbase", include, suite, str(tree)]
    _run([*made, mirror] if mirror else made)
    version = PYTHON[suite]
    target = tree / f"usr/local/lib/python{version}/dist-packages"
    _run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-version", version, "--implementation", "cp"),
            *("--target", str(target), "--requirement", str(REQUIREMENTS)),
        ]
    )
    shutil.rmtree(target / "bin", ignore_errors=True)
    for name in LEFT_OUT:
        shutil.rmtree(tree / name, ignore_errors=True)
    unfinished = folder / "image.tar"
    # The engine makes devices of its own.
    options = ["--exclude=./dev/*", "--numeric-owner", "-cf", str(unfinished)]
    _run(["tar", "-C", str(tree), *options, "."])
    unfinished.replace(archive)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-3:]
        raise ImageError(f"{command[0]} failed: {' / '.join(last)}")


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def import_into(engine: str | None, archive: Path, tag: str = DEFAULT_TAG) -> None:
    """Gives the image to an engine. Raises what the engine's client raises."""
    import docker

    name, _, version = tag.rpartition(":")
    client = docker.APIClient(base_url=engine, version="auto", timeout=600)
    try:
        client.import_image_from_file(str(archive), repository=name or tag, tag=version or "latest")
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
