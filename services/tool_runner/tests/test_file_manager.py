"""The file_manager tool: formats, changes in place, and versions, as a model calls it."""

from __future__ import annotations

from typing import Any

import pytest
from agentmesh.conversation.v1 import message_pb2
from google.protobuf.json_format import MessageToDict

from .conftest import Mesh

ERROR = message_pb2.TOOL_OUTCOME_ERROR


class Tool:
    """Calls it, each time as another step."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._number = 0

    async def __call__(self, action: str, path: str = ".", **more: Any) -> tuple[str, Any]:
        """Output and detail of a call that must do well."""
        result = await self.result(action, path, **more)
        assert result.outcome == message_pb2.TOOL_OUTCOME_OK, result.output
        return result.output, MessageToDict(result.detail)

    async def refused(self, action: str, path: str = ".", **more: Any) -> str:
        """Output of a call that must not."""
        result = await self.result(action, path, **more)
        assert result.outcome == ERROR
        return result.output

    async def result(self, action: str, path: str, **more: Any) -> message_pb2.ToolResultPart:
        self._number += 1
        arguments = {"action": action, "path": path, **more}
        return (await self._mesh.call("file_manager", f"c{self._number}", **arguments)).result


@pytest.fixture
def tool(mesh: Mesh) -> Tool:
    return Tool(mesh)


async def test_formats_are_read_and_checked_before_they_are_written(tool: Tool) -> None:
    await tool("write", "a.json", content='{"a": [1, 2]}', format="json")
    _, detail = await tool("read", "a.json", format="json")
    assert detail["json"] == {"a": [1, 2]}
    await tool("write", "a.csv", content='n,v\n1,"x, y"\n2,z\n', format="csv")
    _, detail = await tool("read", "a.csv", format="csv")
    assert detail["columns"] == ["n", "v"]
    assert (detail["rows"], detail["row_count"]) == ([["1", "x, y"], ["2", "z"]], 2)
    await tool("write", "a.xml", content="<a><b/><b/></a>", format="xml")
    _, detail = await tool("read", "a.xml", format="xml")
    assert detail["elements"] == ["a", "a/b", "a/b"]
    await tool("write", "a.bin", content="AAH/", format="base64")
    assert (await tool("read", "a.bin", format="base64"))[0] == "AAH/"
    assert "base64" in await tool.refused("read", "a.bin")
    bomb = '<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;">]><a>&c;</a>'
    for form, content, place in (
        ("json", '{"a": }', "line 1, column 7"),
        ("json", "[" * 100_000, "nests too deep"),
        ("json", "NaN", "NaN is no number"),
        ("csv", "a,b\n1\n", "row 2 has 1 fields"),
        ("csv", 'a,b\n"1,2\n', "row 2"),
        ("xml", "<a><b></a>", "mismatched tag"),
        ("xml", bomb, "declares the entity 'b'"),
        ("xml", "<a>" * 200, "nests too deep"),
        ("base64", "A", "no base64"),
    ):
        assert place in await tool.refused("write", f"a.{form}", content=content, format=form)
    await tool("write", "wrong.json", content="{")
    assert "no JSON" in await tool.refused("read", "wrong.json", format="json")
    assert (await tool("read", "a.json"))[0] == '{"a": [1, 2]}'


async def test_a_large_file_is_read_piece_by_piece(tool: Tool) -> None:
    await tool("write", "large", content="0123456789" * 30_000)
    text, _ = await tool("read", "large", offset=262_144 - 8)
    assert text.startswith("6789012345")
    assert "read whole" in await tool.refused("read", "large", offset=1, format="json")


async def test_a_change_in_place_can_be_taken_back(tool: Tool) -> None:
    await tool("write", "a.py", content="x = 1\nprint(x)\n")
    text, detail = await tool("replace", "a.py", pattern="x", content="y")
    assert detail["places"] == 2
    assert "nowhere" in await tool.refused("replace", "a.py", pattern="zz", content="")
    assert (await tool("read", "a.py"))[0] == "y = 1\nprint(y)\n"
    text, _ = await tool("versions", "a.py")
    version, _, rest = text.partition(": ")
    assert rest == "a.py (15 bytes)"
    await tool("restore", version=version)
    assert (await tool("read", "a.py"))[0] == "x = 1\nprint(x)\n"
    _, detail = await tool("delete", "a.py")
    await tool("restore", version=detail["version"])
    assert "No such" in await tool.refused("read", "b.py")
    assert "no such version" in await tool.refused("restore", version="0-1")


async def test_versions_are_not_analysed(tool: Tool, mesh: Mesh) -> None:
    await tool(
        "write", "a.py", content="import os, subprocess\nsubprocess.call('ls', shell=True)\n"
    )
    await tool("write", "a.py", content="print(1)\n")
    for name in ("code_analyzer", "security_scanner"):
        assert (await mesh.call(name)).result.output == "no findings"


async def test_folders_copies_and_order(tool: Tool) -> None:
    await tool("make_folder", "in")
    await tool("write", "in/a.py", content="a")
    await tool("copy", "in/a.py", destination="in/b.csv")
    assert "overwrite" in await tool.refused("move", "in/a.py", destination="in/b.csv")
    await tool("copy", "in/a.py", destination="in/b.csv", overwrite=True)
    text, detail = await tool("organize", "in", by="kind")
    assert text.splitlines() == ["in/a.py is now in/code/a.py", "in/b.csv is now in/data/b.csv"]
    assert (await tool("list", pattern="*.csv"))[0] == "in/data/b.csv (1 bytes)"
    _, detail = await tool("stat", "in/data/b.csv")
    assert detail["kind"] == "file"
    assert detail["sha256"].startswith("ca978112ca1bbdcafac231b39a23dc4d")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"action": "fly"}, "action"),
    ({"action": "write", "path": "a"}, "content"),
    ({"action": "replace", "path": "a", "content": "x"}, "pattern"),
    ({"action": "organize", "by": "colour"}, "by"),
    ({"action": "organize"}, "by"),
    ({"action": "restore"}, "version"),
    ({"action": "read", "path": "a", "offset": -1}, "offset"),
    ({"action": "read", "path": 7}, "path"),
    ({"action": "read", "way": "a"}, "way"),
]


async def test_wrong_arguments_name_the_field(tool: Tool) -> None:
    for arguments, field in WRONG:
        assert f"{field}:" in await tool.refused(**arguments)


async def test_half_a_surrogate_pair_is_no_path(mesh: Mesh) -> None:
    called = await mesh.call_raw("file_manager", r'{"action": "read", "path": "\ud800"}', "c1")
    assert called.result.outcome == ERROR
