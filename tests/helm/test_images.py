"""Dockerfiles, read as the builder reads them. Nothing is built here."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "agent_runtime", "tool_runner", "conversation_store")
PORTS = {
    "gateway": 50051,
    "conversation_store": 50052,
    "agent_runtime": 50053,
    "tool_runner": 50054,
}

Instruction = tuple[str, str]


def instructions(service: str) -> list[Instruction]:
    """Instructions with their arguments, continued lines joined."""
    text = (ROOT / "services" / service / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, arguments = line.partition(" ")
        found.append((name, " ".join(arguments.split())))
    return found


def stages(service: str) -> list[list[Instruction]]:
    split: list[list[Instruction]] = []
    for instruction in instructions(service):
        if instruction[0] == "FROM":
            split.append([])
        if split:
            split[-1].append(instruction)
    return split


def arguments(stage: list[Instruction], name: str) -> list[str]:
    return [text for instruction, text in stage if instruction == name]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: its last matching pattern decides."""
    out = False
    parents = [path, *map(str, Path(path).parents)]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        patterns = {pattern, pattern.removeprefix("**/")}
        if any(fnmatch.fnmatch(parent, p) for parent in parents for p in patterns):
            out = not keep
    return out


@pytest.mark.parametrize("service", SERVICES)
def test_two_stages_of_one_pinned_base(service: str) -> None:
    (base,) = [text for name, text in instructions(service)[:1] if name == "ARG"]
    name, _, image = base.partition("=")
    assert re.fullmatch(r"python:3\.11-slim(@sha256:[0-9a-f]{64})?", image)
    froms = [text for name_, text in instructions(service) if name_ == "FROM"]
    assert froms == [f"${{{name}}} AS build", f"${{{name}}}"]


@pytest.mark.parametrize("service", SERVICES)
def test_copied_files_are_there_and_not_ignored(service: str) -> None:
    for number, stage in enumerate(stages(service)):
        for copied in arguments(stage, "COPY"):
            *sources, _ = [part for part in copied.split() if not part.startswith("--")]
            if "--from=build" in copied:
                assert number == 1
                continue
            assert number == 0, "the final stage takes only what was built"
            for source in sources:
                assert (ROOT / source).exists(), source
                assert not ignored(source), source


@pytest.mark.parametrize("service", SERVICES)
def test_everything_from_outside_is_locked_by_hash(service: str) -> None:
    build, final = stages(service)
    locked = f"requirements/{service}.txt"
    assert any("--require-hashes" in run and locked in run for run in arguments(build, "RUN"))
    for run in arguments(build, "RUN"):
        for command in run.split("&&"):
            if re.search(r"pip\b.* install", command):
                assert "--require-hashes" in command or "--no-index" in command, command
                assert "--no-deps" in command, command
    assert not any("pip install" in run for run in arguments(final, "RUN"))
    for requirement in (locked, "requirements/build.txt"):
        lines = (ROOT / requirement).read_text(encoding="utf-8").splitlines()
        pinned = [line for line in lines if re.match(r"\S+==\S+", line)]
        assert pinned
        assert all(line.endswith("\\") for line in pinned), "every package has a hash below it"
        assert not any("://" in line for line in lines)


def test_build_backend_is_the_one_developers_use() -> None:
    development = (ROOT / "requirements/dev.txt").read_text(encoding="utf-8")
    for block in re.split(r"(?m)^(?=\S)", (ROOT / "requirements/build.txt").read_text("utf-8")):
        assert block in development, f"requirements/build.txt is older than dev.txt: {block[:60]}"


@pytest.mark.parametrize("service", SERVICES)
def test_final_stage_is_unprivileged_and_without_tools(service: str) -> None:
    _, final = stages(service)
    (user,) = arguments(final, "USER")
    assert user == "65532:65532"
    after = [name for name, _ in final[final.index(("USER", user)) :]]
    assert "RUN" not in after
    assert any("pip uninstall" in run for run in arguments(final, "RUN"))
    packages = {
        word
        for run in arguments(final, "RUN")
        if (match := re.search(r"apt-get install ([^&]*)", run))
        for word in match.group(1).split()
        if not word.startswith("-")
    }
    if service == "tool_runner":
        # Languages are the builder's choice, and none are there without it.
        assert 'LANGUAGE_PACKAGES=""' in arguments(final, "ARG")
        packages.remove("${LANGUAGE_PACKAGES}")
    assert packages == ({"bubblewrap"} if service == "tool_runner" else set())


@pytest.mark.parametrize("service", SERVICES)
def test_starts_the_service_and_asks_it_for_health(service: str) -> None:
    _, final = stages(service)
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text("utf-8"))
    (entrypoint,) = arguments(final, "ENTRYPOINT")
    assert entrypoint.strip('["]') in project["project"]["scripts"]
    (health,) = arguments(final, "HEALTHCHECK")
    assert f'"meshkit.probe", "localhost:{PORTS[service]}"' in health
    (exposed,) = arguments(final, "EXPOSE")
    assert str(PORTS[service]) in exposed.split()
    assert arguments(final, "STOPSIGNAL") == ["SIGTERM"]


def test_secrets_and_histories_stay_out_of_the_build() -> None:
    for path in (
        ".env",
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "deploy/services.yml",
    ):
        assert ignored(path), path
    assert ignored("services/gateway/tests")
    assert not ignored("services/gateway/src/agentmesh_gateway/__init__.py")
