"""Every chart lints, renders, is valid for Kubernetes, and is what is committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "agent-runtime", "tool-runner", "conversation-store")


@pytest.mark.parametrize("chart", [*SERVICES, "agentmesh"])
def test_lints_without_a_warning(helm: ModuleType, chart: str) -> None:
    assert helm.lint(chart) == []


def test_linter_finds_what_is_wrong(helm: ModuleType) -> None:
    assert helm.lint("gateway", {"replicas": "many"})


@pytest.mark.parametrize("chart", SERVICES)
def test_each_chart_installs_alone(helm: ModuleType, chart: str) -> None:
    rendered = helm.render(chart, release="own")
    kinds = [manifest["kind"] for manifest in rendered.manifests]
    assert kinds.count("Service") == 2
    assert kinds.count("Deployment") + kinds.count("StatefulSet") == 1
    assert list(helm.invalid(rendered.manifests)) == []
    assert "own" in rendered.notes


def test_examples_are_valid(helm: ModuleType, umbrella: dict[str, list[dict[str, Any]]]) -> None:
    for case, manifests in umbrella.items():
        assert list(helm.invalid(manifests)) == [], case


def test_validation_finds_what_is_wrong(helm: ModuleType) -> None:
    (service,) = [
        m
        for m in helm.render("gateway").manifests
        if m["metadata"]["name"] == "demo-gateway-headless"
    ]
    service["spec"]["clusterIp"] = "None"
    assert any("clusterIp" in problem for problem in helm.invalid([service]))


def test_nothing_committed_has_drifted() -> None:
    command = [sys.executable, "scripts/helm.py", "check"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "symbolic link" not in ended.stderr


def test_drift_is_found(helm: ModuleType, cases: dict[str, dict[str, Any]]) -> None:
    committed = (helm.EXAMPLES / "production.yaml").read_text(encoding="utf-8")
    changed = cases["production"] | {"gateway": {"replicas": 7}}
    assert helm.example("production", cases["production"]) == committed
    assert helm.example("production", changed) != committed


def test_an_example_holds_no_random_value(helm: ModuleType) -> None:
    assert helm.example("default", {}) == helm.example("default", {})


def test_a_package_is_the_same_chart(helm: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/helm.py", "package", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.tgz"))) == 5
    values = {
        "gateway": {"replicas": 3},
        "conversation-store": {"apiKeys": {"existingSecret": "k"}},
    }
    values["global"] = {"internalAuth": {"existingSecret": "i"}}
    packed = helm.render(tmp_path / "agentmesh-0.1.0.tgz", values)
    assert packed.text == helm.render("agentmesh", values).text


def test_every_chart_has_the_same_global_values(helm: ModuleType) -> None:
    import yaml

    def shared(chart: str) -> Any:
        return yaml.safe_load((ROOT / "helm" / chart / "values.yaml").read_text("utf-8"))["global"]

    for chart in SERVICES:
        assert shared(chart) == shared("agentmesh"), chart


def test_parts_can_be_left_out(helm: ModuleType) -> None:
    manifests = helm.render("agentmesh", {"tool-runner": {"enabled": False}}).manifests
    names = {manifest["metadata"]["name"] for manifest in manifests}
    assert "demo-gateway" in names
    assert not any("tool-runner" in name for name in names)


def test_charts_of_one_mesh_meet_although_released_apart(helm: ModuleType) -> None:
    mesh = {"global": {"meshName": "m"}}
    gateway = helm.render("gateway", mesh, release="one").manifests
    store = helm.render("conversation-store", mesh, release="two").manifests
    environment = next(m for m in gateway if m["kind"] == "Deployment")["spec"]["template"]["spec"][
        "containers"
    ][0]["env"]
    address = next(e["value"] for e in environment if e["name"] == "AGENTMESH_STORE_ADDRESS")
    host, _, port = address.partition(":")
    service = next(m for m in store if m["metadata"]["name"] == host.split(".")[0])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["ports"][0]["port"] == int(port)
    secret = next(
        e["valueFrom"]["secretKeyRef"]
        for e in environment
        if e["name"] == "AGENTMESH_INTERNAL_SECRET"
    )
    made = next(
        m for m in store if m["kind"] == "Secret" and m["metadata"]["name"] == secret["name"]
    )
    assert secret["key"] in made["data"]
