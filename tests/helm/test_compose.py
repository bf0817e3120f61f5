"""Compose files: they fit images and settings, and publish no more than they should."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
VARIANTS = ("", ".dev", ".prod", ".gpu")
OWN = ("gateway", "agent-runtime", "tool-runner", "conversation-store")

Service = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def merged(under: Any, over: Any) -> Any:
    """As compose merges what a service extends: maps by key, lists by adding, all else replaced."""
    if isinstance(under, dict) and isinstance(over, dict):
        return under | {k: merged(under[k], v) if k in under else v for k, v in over.items()}
    if isinstance(under, list) and isinstance(over, list):
        return under + over
    return over


def services(file: Path) -> dict[str, Service]:
    """The services of a file, with what they extend."""
    found = {}
    for name, service in load(file)["services"].items():
        base: Service = {}
        if extended := service.get("extends"):
            base = services(file.parent / extended["file"])[extended["service"]]
        found[name] = merged(base, {k: v for k, v in service.items() if k != "extends"})
    return found


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant or "default")
def file(request: pytest.FixtureRequest) -> Path:
    return DEPLOY / f"docker-compose{request.param}.yml"


def test_reachable_from_the_root(file: Path) -> None:
    outer = load(ROOT / file.name)
    assert outer["include"] == [f"deploy/{file.name}"]
    assert outer["name"] == load(file)["name"]


def test_no_two_variants_share_a_project() -> None:
    names = {load(DEPLOY / f"docker-compose{variant}.yml")["name"] for variant in VARIANTS}
    assert len(names) == len(VARIANTS)


def test_all_services_with_their_dockerfiles(file: Path) -> None:
    found = services(file)
    assert set(OWN) <= found.keys()
    for name in OWN:
        build = found[name]["build"]
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert found[name]["image"].startswith(f"agentmesh/{name}:")


def test_what_is_named_is_declared(file: Path) -> None:
    whole, found = load(file), services(file)
    for name, service in found.items():
        assert set(service.get("networks", [])) <= whole["networks"].keys(), name
        assert set(service.get("depends_on", {})) <= found.keys(), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in whole["volumes"], source


def test_own_services_are_restricted(file: Path) -> None:
    for name, service in services(file).items():
        if name not in OWN:
            continue
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        assert service["mem_limit"]
        assert service["pids_limit"]
        unconfined = {o for o in service["security_opt"] if o.endswith("unconfined")}
        assert bool(unconfined) == (name == "tool-runner"), name


def test_only_the_runtime_gets_out(file: Path) -> None:
    whole = load(file)
    inner = {name for name, network in whole["networks"].items() if network == {"internal": True}}
    assert "mesh" in inner
    if file.name == "docker-compose.dev.yml":
        return
    for name, service in services(file).items():
        if name in {"conversation-store", "tool-runner", "postgres", "redis"}:
            assert set(service["networks"]) <= inner, name
        if name in {"postgres", "redis"}:
            assert service["networks"] == ["data"], "only the store has a way to it"
    assert "models" in services(file)["agent-runtime"]["networks"]


def test_ports_are_the_gateways_and_on_loopback(file: Path) -> None:
    for name, service in services(file).items():
        for port in service.get("ports", []):
            assert re.match(r"127\.0\.0\.1:|\$\{APP_HOST:-127\.0\.0\.1\}:", port), port
            assert name == "gateway" or file.name == "docker-compose.dev.yml"
    published = " ".join(services(file)["gateway"]["ports"])
    assert ":8000" in published
    assert ":50051" in published


def test_anonymous_callers_are_served_on_loopback_only(file: Path) -> None:
    gateway = services(file)["gateway"]
    anonymous = gateway["environment"].get("AGENTMESH_ALLOW_ANONYMOUS") == "true"
    assert anonymous == (file.name != "docker-compose.prod.yml")
    if anonymous:
        assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])


def test_no_secret_is_written_down(file: Path) -> None:
    for name, service in services(file).items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"(_SECRET|PASSWORD|_TOKEN|API_KEY)$", variable):
                assert str(value).startswith("${") or value == "none", f"{name}: {variable}"


def test_production_insists_on_its_secrets() -> None:
    text = (DEPLOY / "docker-compose.prod.yml").read_text(encoding="utf-8")
    for name in ("AGENTMESH_INTERNAL_SECRET", "API_KEY_SECRET", "POSTGRES_PASSWORD"):
        assert f"${{{name}:?" in text


def test_foreign_images_are_pinned(file: Path) -> None:
    for name, service in services(file).items():
        if name not in OWN:
            tag = service["image"].rpartition(":")[2]
            assert re.search(r"\d", tag), service["image"]
            assert tag != "latest"


def test_the_secret_is_made_once_and_the_services_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshkit.settings import ServiceSettings

    file = tmp_path / "mesh.yaml"
    command = [sys.executable, str(DEPLOY / "make_secret.py"), str(file)]
    subprocess.run(command, check=True)
    first = file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o600
    subprocess.run(command, check=True)
    assert file.read_text(encoding="utf-8") == first
    monkeypatch.setenv("AGENTMESH_CONFIG_FILE", str(file))
    monkeypatch.setenv("AGENTMESH_INTERNAL_SECRET", "")
    secret = ServiceSettings().internal_secret
    assert secret is not None
    assert secret.get_secret_value() == yaml.safe_load(first)["internal_secret"]
