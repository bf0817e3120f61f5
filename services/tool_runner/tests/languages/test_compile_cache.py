"""What is kept of compiled programs is bounded, and nobody else's program is ever run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agentmesh_tool_runner.languages import CompileCache, Language, Program
from agentmesh_tool_runner.languages.compile_cache import Compiled, CompileKey
from agentmesh_tool_runner.sandbox.model import EndReason

from .conftest import Bench

ON_A_BACKEND = pytest.mark.asyncio(loop_scope="module")

PROGRAM = Program(Language.C, code='#include <stdio.h>\nint main() { puts("mine"); }')


@ON_A_BACKEND
async def test_no_tenant_runs_what_another_compiled(bench: Bench) -> None:
    await bench.run(PROGRAM, "acme")
    ended = await bench.starved().run(PROGRAM, "other")
    assert ended.outcome.reason is EndReason.OUT_OF_MEMORY
    await bench.run(PROGRAM, "other")
    assert len(bench.kept) == 2
    assert len({path.parent for path in bench.kept}) == 2


@ON_A_BACKEND
async def test_what_was_changed_on_disk_is_compiled_again(bench: Bench) -> None:
    await bench.run(PROGRAM)
    [kept] = bench.kept
    good = kept.read_bytes()
    kept.write_bytes(good.replace(b"mine", b"evil"))
    assert b"evil" in kept.read_bytes()
    assert (await bench.run(PROGRAM)).stdout == "mine\n"
    assert kept.read_bytes() == good


@ON_A_BACKEND
async def test_files_beside_the_code_are_part_of_what_it_is(bench: Bench) -> None:
    code = '#include "value.h"\nint main() { return VALUE; }'
    for value in (4, 5, 4):
        files = {"value.h": f"#define VALUE {value}\n".encode()}
        ended = await bench.run(Program(Language.C, code=code, files=files))
        assert ended.outcome.exit_code == value
    assert len(bench.kept) == 2


@ON_A_BACKEND
async def test_the_workspace_takes_no_part_in_what_is_kept(bench: Bench) -> None:
    """A header that lies in the conversation would make one key mean two programs."""
    workspace = await bench.workspace()
    await workspace.write_file("value.h", b"#define VALUE 4\n")
    program = Program(Language.C, code='#include "value.h"\nint main() { return VALUE; }')
    ended = await bench.run(program)
    assert ended.outcome.reason is EndReason.COMPILE_ERROR
    names = [entry.path for entry in await workspace.list_files()]
    await workspace.remove("value.h")
    assert names == ["value.h"]


@ON_A_BACKEND
async def test_no_sandbox_sees_what_is_kept_and_nobody_can_run_it_there(bench: Bench) -> None:
    await bench.run(PROGRAM)
    [kept] = bench.kept
    assert kept.stat().st_mode & 0o777 == 0o600
    code = f"import os; print(os.path.exists({str(kept)!r}), os.path.exists('/var'))"
    assert (await bench.run(Program(Language.PYTHON, code=code))).stdout == "False False\n"


def key(source: str, tenant: str = "acme") -> CompileKey:
    return CompileKey(tenant, "cc 1", source, {})


def test_what_was_used_long_ago_goes_first(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, 1000)
    for name in "abc":
        cache.keep(key(name), Compiled(bytes(250)))
    assert cache.find(key("a")) == Compiled(bytes(250))
    cache.keep(key("d"), Compiled(bytes(250), b"said"))
    assert cache.find(key("b")) is None
    assert [cache.find(key(name)) is not None for name in "acd"] == [True, True, True]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1000
    cache.keep(key("large"), Compiled(bytes(2000)))
    assert cache.find(key("large")) is None


def test_another_process_goes_on_with_what_is_kept(tmp_path: Path) -> None:
    first = CompileCache(tmp_path, 700)
    for number, name in enumerate("ab"):
        first.keep(key(name), Compiled(bytes(250)))
        os.utime(tmp_path / key(name).name, (number, number))
    (tmp_path / key("a").name).with_suffix(".123-4").write_bytes(b"of one that died")
    second = CompileCache(tmp_path, 700)
    assert second.find(key("b")) == Compiled(bytes(250))
    second.keep(key("c"), Compiled(bytes(250)))
    assert second.find(key("a")) is None
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path, 0)
    cache.keep(key("a"), Compiled(b"x"))
    assert cache.find(key("a")) is None
    assert list(tmp_path.rglob("*")) == []
