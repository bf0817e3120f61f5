"""What a package index offers, as the simple repository API says it (PEP 503 and 691)."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from agentmesh_tool_runner.sandbox.model import MIB

from .requirements import PackagesNotAllowedError, PackagesUnavailableError

_ACCEPT: Final = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.1"
)
_PAGE_BYTES: Final = 32 * MIB
_SECONDS: Final = 30.0
_PIECE_BYTES: Final = 256 * 1024
_NOT_FOUND: Final = 404


@dataclass(frozen=True)
class IndexFile:
    """A file of an index. `sha256` is empty if the index does not vouch for it."""

    name: str
    url: str
    sha256: str


class _OtherSchemeError(urllib.error.URLError):
    """A redirection to what is no HTTP."""


class _HttpAlone(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from TLS to plain text, and to nothing else."""

    def redirect_request(self, req: Any, *args: Any) -> Any:
        newurl = args[-1]
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before == "https" and after != "https"):
            raise _OtherSchemeError(f"redirects from {before} to {after}")
        return super().redirect_request(req, *args)


# Of the environment's proxies none is used: whoever allows an index says which way leads to it.
_opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _HttpAlone())


def files(index_url: str, package: str) -> list[IndexFile]:
    """The files of a package; none if the index does not know it. Blocks.

    Raises PackagesUnavailableError.
    """
    url = f"{index_url.rstrip('/')}/{package}/"
    try:
        data, kind, url = _get(url, _PAGE_BYTES)
    except urllib.error.HTTPError as error:
        if error.code == _NOT_FOUND:
            return []
        raise PackagesUnavailableError(f"{index_url} answers {error.code}") from None
    try:
        return list(_of_json(data, url) if kind.endswith("+json") else _of_page(data, url))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PackagesUnavailableError(f"{index_url} is no index: {error}") from None


def download(file: IndexFile, limit: int) -> bytes:
    """Its bytes, at most `limit`. Blocks. Raises PackagesUnavailableError, PackagesNotAllowed."""
    try:
        return _get(file.url, limit)[0]
    except urllib.error.HTTPError as error:
        raise PackagesUnavailableError(f"{file.name}: the index answers {error.code}") from None


def _get(url: str, limit: int) -> tuple[bytes, str, str]:
    """Body, content type and the address that it came from."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise PackagesUnavailableError(f"{url} is no address of HTTP")
    request = urllib.request.Request(url, headers={"Accept": _ACCEPT})  # noqa: S310 - looked at
    data = bytearray()
    try:
        with _opener.open(request, timeout=_SECONDS) as answer:
            while piece := answer.read(_PIECE_BYTES):
                data += piece
                if len(data) > limit:
                    raise PackagesNotAllowedError(f"{url} is larger than {limit} bytes")
            return bytes(data), answer.headers.get_content_type(), answer.url
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise PackagesUnavailableError(f"{url}: {error}") from None


def _of_json(data: bytes, url: str) -> Iterator[IndexFile]:
    for file in json.loads(data)["files"]:
        if not file.get("yanked"):
            sha256 = file["hashes"].get("sha256", "")
            yield IndexFile(file["filename"], urljoin(url, file["url"]), sha256.lower())


def _of_page(data: bytes, url: str) -> Iterator[IndexFile]:
    page = _Page()
    page.feed(data.decode(errors="replace"))
    for link in page.links:
        address, fragment = urldefrag(urljoin(url, link))
        name = unquote(urlsplit(address).path.rpartition("/")[2])
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        yield IndexFile(name, address, sha256.lower())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href") and "data-yanked" not in values:
            self.links.append(values["href"] or "")
