"""Which place AGENTMESH_BLOB_URL names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

_SCHEMES = ("s3", "gs", "az", "file")
_RETRIES: dict[str, Any] = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
# Long enough for a server that puts the parts of a large blob together, or copies it.
_TIMES: dict[str, Any] = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=5)}


@dataclass(frozen=True, slots=True)
class Place:
    """A backend; `folder` is set if it is one of this machine."""

    store: ObjectStore
    folder: Path | None = None


def check_url(url: str) -> None:
    """Raises ValueError, saying what is wrong, for a URL that names no place for blobs."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(
            "must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or "
            f"file:///folder; {parts.scheme or 'no scheme'!r} is none of them"
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("holds a place only: credentials come from the SDK's usual variables")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.strip("/"):
            raise ValueError("must name a folder by its whole path, as file:///var/lib/blobs")
    elif not parts.netloc:
        raise ValueError(f"names no bucket: {parts.scheme}://bucket/prefix")
    else:
        _remote(url)


def open_place(url: str, default: Path, *, allow_http: bool = False) -> Place:
    """The place, `default` if there is no URL. Makes its folder if it is one. `allow_http` lets an
    endpoint be without TLS."""
    if url and urlsplit(url).scheme != "file":
        return Place(_remote(url, allow_http=allow_http))
    folder = Path(unquote(urlsplit(url).path)) if url else default
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Place(LocalStore(prefix=folder), folder)


def _remote(url: str, *, allow_http: bool = False) -> ObjectStore:
    client: dict[str, Any] = {**_TIMES, "allow_http": allow_http}
    try:
        return from_url(url, client_options=client, retry_config=_RETRIES)  # type: ignore[call-overload,no-any-return]  # one overload for each kind of URL
    except (BaseError, ValueError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error
