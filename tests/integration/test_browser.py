"""The page at /docs in a real browser that reaches no other machine."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.rest.routes import routes_of

from tests.support.browser import CHROMIUM, browser
from tests.support.mesh import Mesh

ROUTES = routes_of(PUBLIC_SERVICES)
TAGS = {route.method.containing_service.name for route in ROUTES}
HEALTH = "document.querySelector('[id$=-CheckConversationsHealth]')"


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine")
async def test_the_page_shows_every_method_and_calls_one(mesh: Mesh, tmp_path: Path) -> None:
    async with browser(tmp_path) as page:
        await page.open(f"{mesh.rest_url}/docs")
        await page.until(f"document.querySelectorAll('.opblock-tag').length == {len(TAGS)}")
        await page.value("document.querySelectorAll('.opblock-tag').forEach(tag => tag.click())")
        await page.until(f"document.querySelectorAll('.opblock').length == {len(ROUTES)}")

        await page.value(f"{HEALTH}.querySelector('button').click()")
        await page.until(f"!!{HEALTH}.querySelector('.try-out__btn')")
        await page.value(f"{HEALTH}.querySelector('.try-out__btn').click()")
        await page.until(f"!!{HEALTH}.querySelector('.execute')")
        await page.value(f"{HEALTH}.querySelector('.execute').click()")
        answer = await page.until(f"{HEALTH}.querySelector('.live-responses-table')?.innerText")
        assert "200" in answer
        assert '"healthy"' in answer

    assert not page.failures
    asked = [urlsplit(url) for url in page.requests]
    assert {url.netloc for url in asked if url.scheme != "data"} == {urlsplit(mesh.rest_url).netloc}
    assert {"/docs", "/openapi.json", "/conversations/health"} <= {url.path for url in asked}
