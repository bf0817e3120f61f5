"""What the documentation shows of this package is what the package is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from agentmesh_agent_runtime.definitions.shipped import load_definitions
from agentmesh_agent_runtime.definitions.specs import ProfileSpec
from agentmesh_agent_runtime.definitions.yaml_source import load_profiles

PACKAGE = Path(__file__).parents[1]
DOCS = PACKAGE.parents[1] / "docs" / "agents.md"
SECTION = DOCS.read_text("utf-8").split("## Agents, teams and models from packages")[1]
ABOUT_AGENTS, IN_PLACE = SECTION.split("## In place of Python classes")
ABOUT_PACKAGES = ABOUT_AGENTS + DOCS.with_name("tools.md").read_text("utf-8")
SOURCES = "\n".join(file.read_text("utf-8") for file in sorted(PACKAGE.rglob("src/**/*.py")))
PROJECT: dict[str, Any] = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))


def blocks(language: str) -> list[str]:
    """What stands in fences of that language, in what is said of packages."""
    found = re.findall(rf"```{language}\n(.*?)```", ABOUT_PACKAGES, re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("python"))
def test_python_of_the_documentation_is_the_packages_own(block: str) -> None:
    assert block in SOURCES


@pytest.mark.parametrize("block", blocks("yaml"))
def test_definitions_of_the_documentation_are_the_packages_own(block: str) -> None:
    kept = yaml.safe_load((PACKAGE / "agents.yaml").read_text("utf-8"))
    kept |= yaml.safe_load((PACKAGE / "models.yaml").read_text("utf-8"))
    for name, definition in yaml.safe_load(block).items():
        assert kept[name] == definition


@pytest.mark.parametrize("block", blocks("toml"))
def test_entry_points_of_the_documentation_are_the_packages_own(block: str) -> None:
    for group, named in tomllib.loads(block)["project"]["entry-points"].items():
        assert named.items() <= PROJECT["project"]["entry-points"][group].items()


def test_what_stands_in_place_of_a_class_is_in_the_package() -> None:
    rows = [row.split("|")[2] for row in IN_PLACE.splitlines() if row.startswith("| `")]
    classes = re.findall(r"`class (\w+)\((\w+)\)`", "\n".join(rows))
    assert len(classes) >= 3
    for name, base in classes:
        assert f"class {name}({base}):" in SOURCES
    functions = re.findall(r"`((?:async )?def \w+\(.*?)`", "\n".join(rows))
    named_functions = {name for each in functions for name in re.findall(r"def (\w+)", each)}
    assert named_functions >= {"custom_tool", "query_database", "call_external_api", "read_file"}
    for name in named_functions:
        assert f"def {name}(" in SOURCES
    named = {name for group in PROJECT["project"]["entry-points"].values() for name in group}
    assert set(re.findall(r"the entry point `(\w+)`", "\n".join(rows))) <= named
    assert "async def process_message(self, message: str, context: Heard)" in SOURCES


def test_the_definitions_name_what_the_package_brings() -> None:
    definitions = load_definitions(PACKAGE / "agents.yaml")
    points = PROJECT["project"]["entry-points"]
    agents = {agent.component for agent in definitions.agents if agent.component}
    assert agents <= points["agentmesh.agents"].keys()
    teams = {team.component for team in definitions.teams if team.component}
    assert teams == points["agentmesh.teams"].keys()
    profiles: list[ProfileSpec] = load_profiles(PACKAGE / "models.yaml")
    assert {p.component for p in profiles} == points["agentmesh.model_clients"].keys()
    for group in points.values():
        for value in group.values():
            module, _, name = value.partition(":")
            file = PACKAGE / "src" / f"{module.replace('.', '/')}.py"
            assert re.search(
                rf"^(class|(async )?def) {name}\b", file.read_text("utf-8"), re.MULTILINE
            )


def test_the_image_of_the_tool_runner_allows_the_package() -> None:
    dockerfile = (PACKAGE / "Dockerfile.tools").read_text("utf-8")
    assert f"AGENTMESH_TOOL_PACKAGES={PROJECT['project']['name']}" in dockerfile


def test_the_image_allows_the_package_and_has_its_files() -> None:
    dockerfile = (PACKAGE / "Dockerfile").read_text("utf-8")
    assert f"AGENTMESH_COMPONENT_PACKAGES={PROJECT['project']['name']}" in dockerfile
    for file in ("agents.yaml", "models.yaml"):
        assert f"/opt/agentmesh/example/{file}" in dockerfile
        assert (PACKAGE / file).is_file()
