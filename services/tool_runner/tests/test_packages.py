"""Packages come from allowed indexes alone, as wheels whose digests are right, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh_tool_runner.packages.fetching import choose
from agentmesh_tool_runner.packages.index import IndexFile
from agentmesh_tool_runner.packages.requirements import Requirement, UnknownPackageError
from agentmesh_tool_runner.server import ToolRunner
from meshkit.server import ServiceHost
from meshkit.testkit import HostFactory, raises_rich
from pydantic import ValidationError

from .conftest import Mesh, settings
from .memory_store import MemoryStore

JSON = "application/vnd.pypi.simple.v1+json"


def wheel(files: Mapping[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Index:
    """A server of the simple repository API, with files as a test puts them."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def offer(self, package: str, name: str, data: bytes, sha256: str = "") -> None:
        """By a page of JSON."""
        self.files[f"/files/{name}"] = data
        hashes = {"sha256": sha256 or digest(data)}
        file = {"filename": name, "url": f"../../files/{name}", "hashes": hashes}
        page = json.dumps({"meta": {"api-version": "1.1"}, "name": package, "files": [file]})
        self.pages[f"/simple/{package}/"] = JSON, page.encode()

    @property
    def url(self) -> str:
        return f"{self.address}/simple"


@pytest.fixture
def index() -> Iterator[Index]:
    index = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            kind, body = index.pages.get(self.path, ("", index.files.get(self.path, b"")))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind or "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    index.address = f"http://127.0.0.1:{server.server_port}"
    yield index
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def mesh(
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
    index: Index,
) -> AsyncIterator[Mesh]:
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address, package_indexes=index.url))
    await runner.host.start()
    yield Mesh(runner, store, mesh_hosts.channels())
    await runner.host.stop()


def wanting(name: str, version: str = "1.0", **fields: Any) -> pb.PackageInstallation:
    requirement = pb.PackageRequirement(name=name, version=version, sha256=fields.pop("sha256", []))
    return pb.PackageInstallation(requirements=[requirement], **fields)


async def text(mesh: Mesh, code: str, **fields: Any) -> str:
    items = await mesh.execute(code, **fields)
    return b"".join(item.output.data for item in items).decode()


async def test_the_first_two_who_want_packages_at_once_both_get_them(
    mesh: Mesh, index: Index
) -> None:
    index.offer("tea", "tea-1.0-py3-none-any.whl", wheel({"tea/__init__.py": "CUPS = 3\n"}))
    code = "import tea; print(tea.CUPS)"
    both = [text(mesh, code, packages=wanting("tea")) for _ in range(2)]
    assert await asyncio.gather(*both) == ["3\n", "3\n"]


async def test_wheels_are_unpacked_for_the_program(mesh: Mesh, index: Index) -> None:
    """Nothing of them stays in the workspace, or is fetched twice."""
    data = wheel(
        {"tea/__init__.py": "CUPS = 3\n", "tea-1.0.data/purelib/pot.py": "KIND = 'china'\n"}
    )
    index.offer("tea-time", "Tea_Time-1.0-py3-none-any.whl", data)
    packages = wanting("Tea.Time", sha256=[digest(data)], index_url=f"{index.url}/")
    code = "import tea, pot; print(tea.CUPS, pot.KIND, __import__('os').listdir('.'))"
    for _ in range(2):
        assert await text(mesh, code, packages=packages) == "3 china []\n"
    page, file = "/simple/tea-time/", "/files/Tea_Time-1.0-py3-none-any.whl"
    assert index.asked == [page, file, page]
    shell = await text(
        mesh,
        "python3 -c 'import tea; print(tea.CUPS)'; exit 3",
        language=pb.EXECUTION_LANGUAGE_SHELL,
        packages=packages,
    )
    assert shell == "3\n"
    assert "ModuleNotFoundError" in await text(mesh, "import tea")


async def test_indexes_that_answer_with_pages(mesh: Mesh, index: Index) -> None:
    data = wheel({"tea/__init__.py": ""})
    index.files["/files/tea-1.0-py3-none-any.whl"] = data
    links = [
        '<a href="../../files/tea-1.0.tar.gz#sha256=aa">tea-1.0.tar.gz</a>',
        '<a data-yanked="bad" href="../../files/tea-1.0-1-py3-none-any.whl#sha256=aa">x</a>',
        f'<a href="../../files/tea-1.0-py3-none-any.whl#sha256={digest(data)}">tea</a>',
    ]
    index.pages["/simple/tea/"] = "text/html", "\n".join(links).encode()
    assert await text(mesh, "import tea; print('got')", packages=wanting("tea")) == "got\n"


async def test_what_is_refused(mesh: Mesh, index: Index) -> None:
    data = wheel({"tea/__init__.py": "print('imported')\n"})
    index.offer("tea", "tea-1.0-py3-none-any.whl", data)
    index.offer("forged", "forged-1.0-py3-none-any.whl", data, sha256=digest(b"another"))
    index.offer("source", "source-1.0.tar.gz", data)
    index.offer("old", "old-1.0-cp27-cp27m-win32.whl", data)
    index.pages["/simple/broken/"] = JSON, b"{}"
    index.offer("gone", "gone-1.0-py3-none-any.whl", data)
    index.files.clear()
    index.files["/files/forged-1.0-py3-none-any.whl"] = data
    precondition, unknown = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
    refused: list[tuple[grpc.StatusCode, str, pb.PackageInstallation]] = [
        (precondition, "PACKAGES_NOT_ALLOWED", wanting("forged")),
        (precondition, "PACKAGES_NOT_ALLOWED", wanting("tea", sha256=["a" * 64])),
        (precondition, "PACKAGES_NOT_ALLOWED", wanting("tea", index_url="http://127.0.0.1:1/")),
        (unknown, "NOT_FOUND", wanting("nothing")),
        (unknown, "NOT_FOUND", wanting("tea", "2.0")),
        (unknown, "NOT_FOUND", wanting("source")),
        (unknown, "NOT_FOUND", wanting("old")),
        (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", wanting("broken")),
        (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", wanting("gone")),
    ]
    for code, reason, packages in refused:
        with raises_rich(code, reason):
            await mesh.execute("print('runs')", packages=packages)
    for field_path, packages in (
        ("packages.requirements[0].name", wanting("../../etc")),
        ("packages.requirements[0].version", wanting("tea", ">=1")),
        ("packages.requirements[0].sha256[0]", wanting("tea", sha256=["xyz"])),
    ):
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field=field_path):
            await mesh.execute("print('runs')", packages=packages)
    with raises_rich(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="packages.requirements"
    ):
        await mesh.execute(
            "x", language=pb.EXECUTION_LANGUAGE_C, packages=wanting("tea", sha256=["a" * 64])
        )


async def test_wheels_that_would_do_harm(mesh: Mesh, index: Index) -> None:
    """A path that leaves the folder stays in it, and a bomb ends at the program's own limits."""
    index.offer("sly", "sly-1.0-py3-none-any.whl", wheel({"../../workspace/sly.py": "x = 1"}))
    listing = "import os; print(os.listdir('/workspace'), os.listdir('/tmp/packages'))"
    assert await text(mesh, listing, packages=wanting("sly")) == "[] ['workspace']\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.py", bytes(400 << 20))
    index.offer("bomb", "bomb-1.0-py3-none-any.whl", data.getvalue())
    items = await mesh.execute("print('runs')", packages=wanting("bomb"))
    assert items[-1].finished.reason == pb.EXECUTION_END_REASON_DISK_FULL


async def test_off_unless_an_operator_says_otherwise(
    mesh_hosts: HostFactory,
    store_host: tuple[MemoryStore, ServiceHost],
    tmp_path: Path,
    index: Index,
) -> None:
    store, host = store_host
    runner = ToolRunner(settings(tmp_path, host.grpc_address))
    await runner.host.start()
    try:
        mesh = Mesh(runner, store, mesh_hosts.channels())
        for url in ("", index.url):
            with raises_rich(
                grpc.StatusCode.FAILED_PRECONDITION, "PACKAGES_NOT_ALLOWED"
            ) as refused:
                await mesh.execute("print()", packages=wanting("tea", index_url=url))
            assert refused.error is not None
            assert "AGENTMESH_PACKAGE_INDEXES" in refused.error.metadata["remedy"]
    finally:
        await runner.host.stop()
    assert index.asked == []


@pytest.mark.parametrize("url", ["ftp://x/", "http://example.org/simple", "simple", "file:///x"])
def test_indexes_that_cannot_be_trusted(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError, match="package_indexes"):
        settings(tmp_path, "localhost:1", package_indexes=url)


def test_the_wheel_that_suits_best() -> None:
    names = ("p-1.0-py3-none-any.whl", "p-1.0-cp311-cp311-a.b.whl", "p-1.0-cp310-cp310-a.whl")
    files = [IndexFile(name, "", "aa") for name in names]
    tags = ["cp311-cp311-b", "py3-none-any"]
    assert choose(files, Requirement("p", "1.0"), tags).name == names[1]
    assert choose(files[:1], Requirement("P", "1.0", ("aa",)), tags).name == names[0]
    with pytest.raises(UnknownPackageError):
        choose(files[2:], Requirement("p", "1.0"), tags)
