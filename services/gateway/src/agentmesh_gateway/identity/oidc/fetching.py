"""Fetches small JSON documents from issuers: bounded, without redirects, and over TLS unless the
issuer is on this machine."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
from meshkit.settings import is_loopback

LARGEST_DOCUMENT = 256 * 1024


class FetchError(Exception):
    """A document could not be had; the message is for operators."""


def check_url(url: str) -> None:
    """Raises ValueError if documents of this address cannot be believed."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.fragment or not parts.hostname:
        raise ValueError("must be an https URL without credentials or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("must begin with https://; http:// is only for loopback addresses")


async def fetch_json(url: str, seconds: float) -> dict[str, Any]:
    """The object at `url`. Raises FetchError."""
    try:
        check_url(url)
        async with asyncio.timeout(seconds):
            content = await _read(url)
        document = json.loads(content)
    except TimeoutError:
        raise FetchError(f"{url} did not answer within {seconds:g} s") from None
    except httpx.HTTPError as error:
        raise FetchError(f"{url} cannot be reached: {type(error).__name__} {error}") from None
    except (ValueError, RecursionError) as error:
        raise FetchError(f"{url} is no good: {error}") from None
    if not isinstance(document, dict):
        raise FetchError(f"{url} is no JSON object")
    return document


async def _read(url: str) -> bytes:
    # A proxy of the environment is for the world outside, not for this machine.
    loopback = is_loopback(urlsplit(url).hostname or "")
    async with (
        httpx.AsyncClient(follow_redirects=False, trust_env=not loopback) as client,
        client.stream("GET", url, headers={"accept": "application/json"}) as response,
    ):
        if response.status_code != 200:
            raise FetchError(f"{url} answers {response.status_code}")
        content = b""
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > LARGEST_DOCUMENT:
                raise FetchError(f"{url} is larger than {LARGEST_DOCUMENT} bytes")
        return content
