"""The architecture's import rules: services share only the contracts and meshkit, and only
agent_runtime knows AutoGen."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = {
    "agentmesh_gateway": ROOT / "services/gateway/src",
    "agentmesh_agent_runtime": ROOT / "services/agent_runtime/src",
    "agentmesh_tool_runner": ROOT / "services/tool_runner/src",
    "agentmesh_conversation_store": ROOT / "services/conversation_store/src",
}
CLIENTS = {
    "agentmesh_client": ROOT / "clients/python/src",
    "agentmesh_cli": ROOT / "clients/cli/src",
}
PACKAGES = SERVICES | CLIENTS | {"meshkit": ROOT / "libs/meshkit/src"}
AUTOGEN = {"autogen", "autogen_agentchat", "autogen_core", "autogen_ext"}


def imported_modules(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each absolute import below `folder`, with the file that has it."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path, node.module


def offenders(folder: Path, forbidden: Collection[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path, module in imported_modules(folder)
        if module.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_code(package: str) -> None:
    assert list(PACKAGES[package].rglob("*.py"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service_and_no_client(service: str) -> None:
    assert not offenders(SERVICES[service], (SERVICES | CLIENTS).keys() - {service})


@pytest.mark.parametrize("package", sorted(PACKAGES.keys() - {"agentmesh_agent_runtime"}))
def test_only_agent_runtime_knows_autogen(package: str) -> None:
    assert not offenders(PACKAGES[package], AUTOGEN)


def test_agent_runtime_is_built_on_autogen() -> None:
    assert offenders(SERVICES["agentmesh_agent_runtime"], AUTOGEN)


def test_meshkit_imports_no_service_and_no_client() -> None:
    assert not offenders(PACKAGES["meshkit"], (SERVICES | CLIENTS).keys())


def test_the_client_needs_neither_meshkit_nor_a_service() -> None:
    assert not offenders(CLIENTS["agentmesh_client"], SERVICES.keys() | {"meshkit"})


def environment_reads(tree: ast.AST) -> Iterator[int]:
    """Lines that read environment variables; setting one for a library is another matter."""
    written = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in written:
            continue
        if node.attr in {"environ", "getenv"}:
            yield node.lineno


# Run inside a sandbox, where the environment is the program's and holds no setting.
IN_SANDBOXES = ("resident_child.py", "resident_python.py")


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_read_in_one_place(service: str) -> None:
    """Environment variables are read by the settings module and nowhere else."""
    readers = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(SERVICES[service].rglob("*.py"))
        if path.name not in ("settings.py", *IN_SANDBOXES)
        for line in environment_reads(ast.parse(path.read_text()))
    ]
    assert not readers
