"""What becomes of files that the store cannot take when a program of a person ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agentmesh_tool_runner.sandbox.model import WorkspaceKey
from agentmesh_tool_runner.sandbox.mounted import Mounted

from .conftest import CONVERSATION, TENANT, Mesh

KEY = WorkspaceKey(TENANT, CONVERSATION)
WRITE = "open('made', 'w').write('x')"


@pytest.fixture
async def owing(mesh: Mesh) -> AsyncIterator[Mesh]:
    """A runner with files that the store has not taken."""
    mesh.store.files.refuses_saves = True
    items = await mesh.execute(WRITE, conversation_id=CONVERSATION)
    assert "could not be kept" in items[-1].finished.detail
    yield mesh
    mesh.store.files.refuses_saves = False


def mounted(mesh: Mesh) -> Mounted:
    """The conversation's one, which is open."""
    return mesh.workspaces._open[KEY]


def generation(mesh: Mesh) -> int:
    """What the store has."""
    return mesh.store.files.of(CONVERSATION).now.generation


async def test_they_are_kept_as_soon_as_it_is_back(owing: Mesh) -> None:
    await owing.workspaces.close_idle()
    assert generation(owing) == 0
    owing.store.files.refuses_saves = False
    await owing.workspaces.close_idle()
    assert generation(owing) == 1
    await owing.workspaces.close_idle()
    assert generation(owing) == 1, "there is nothing left to keep"


async def test_a_session_stays_open_until_they_are_kept(owing: Mesh) -> None:
    here = mounted(owing)
    here.used_at = here.opened_at = float("-inf")
    await owing.workspaces.close_idle()
    await owing.workspaces.release(KEY)
    assert mounted(owing) is here
    owing.store.files.refuses_saves = False
    await owing.workspaces.close_idle()
    assert not owing.workspaces.count
    assert generation(owing) == 1


async def test_they_are_kept_for_whoever_changed_them(owing: Mesh) -> None:
    owing.store.files.refuses_saves = False
    savers: list[Any] = []
    owing.store.files.told_saver = savers.append
    await owing.workspaces.close_idle()
    assert [saver.subject for saver in savers] == ["alice"]


async def test_what_a_killed_call_left_among_them_is_not_kept(owing: Mesh) -> None:
    owing.workspaces.taint(KEY)
    owing.store.files.refuses_saves = False
    await owing.workspaces.close_idle()
    await owing.workspaces.clean(KEY, 1)
    assert generation(owing) == 0
    assert not owing.workspaces.count
