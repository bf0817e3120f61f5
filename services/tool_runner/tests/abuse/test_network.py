"""Attacks over the network, on a network that the test made and nobody else is on."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from ..sandbox import engine  # noqa: TID252 - the tests are one tree
from .attacks.attack import ATTACKS
from .conftest import Verdict
from .stage import Answer, answers, of_family, shown_outside

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user can make no network"),
]

ROOT = Path(__file__).parents[4]
STAGE = __name__.rpartition(".")[0] + ".network_stage"
SECONDS = 120


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ended(
    stage_name: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Answer]]:
    """Outside and inside, the answers to all attacks of the network."""
    kind, _, bound = stage_name.partition(", ")
    folder = tmp_path_factory.mktemp("network")
    command = ["unshare", "--net", "--kill-child", "--fork", sys.executable, "-m", STAGE]
    process = await asyncio.create_subprocess_exec(
        *command,
        kind,
        bound,
        str(folder),
        *([engine.address()] if kind == "docker" else []),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-3000:]
    return {side: answers(text) for side, text in json.loads(told).items()}


@pytest.mark.parametrize("name", of_family("network", alone=False))
async def test_reaches_nobody(
    stage_name: str, ended: dict[str, dict[str, Answer]], verdict: Verdict, name: str
) -> None:
    attack = ATTACKS[name]
    shown = shown_outside(attack, ended["outside"].get(name))
    answer = ended["inside"][name]
    assert answer.answer in attack.stopped_by, answer
    verdict(stage_name, attack, "stopped", answer.answer, shown)
