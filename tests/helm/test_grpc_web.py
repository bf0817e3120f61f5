"""The proxy for browsers that the gateway's chart can run: what is shipped, before this gateway."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.support.envoy import CONFIG, envoy_program

from .conftest import Manifest, of_kind, pods

NAME = "demo-grpc-web"
ON: dict[str, Any] = {
    "grpcWeb": {"enabled": True},
    "edge": {"corsAllowOrigins": ["https://one.example", "https://two.example"]},
    "networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    "global": {"internalAuth": {"existingSecret": "made-elsewhere"}},
}


@pytest.fixture(scope="module")
def manifests(helm: ModuleType) -> list[Manifest]:
    found: list[Manifest] = helm.render("gateway", ON).manifests
    return found


def shown(manifests: list[Manifest]) -> str:
    """The configuration that the proxy reads."""
    text: str = of_kind(manifests, "ConfigMap")[NAME]["data"]["envoy.yaml"]
    return text


def test_it_is_off_unless_wanted(helm: ModuleType) -> None:
    assert not [m for m in helm.render("gateway").manifests if "grpc-web" in m["metadata"]["name"]]


def test_its_configuration_is_the_shipped_one_with_this_gateway(
    manifests: list[Manifest],
) -> None:
    shipped: Any = yaml.safe_load(CONFIG.read_text())["static_resources"]
    for cluster in shipped["clusters"]:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"]["socket_address"]["address"] = "demo-gateway-headless.agents.svc"
    manager = shipped["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    host["typed_per_filter_config"]["envoy.filters.http.cors"]["allow_origin_string_match"] = [
        {"exact": "https://one.example"},
        {"exact": "https://two.example"},
    ]
    assert yaml.safe_load(shown(manifests)) == {"static_resources": shipped}


def test_envoy_takes_it(manifests: list[Manifest], tmp_path: Path) -> None:
    program = envoy_program()
    if program is None:
        pytest.skip("no Envoy on this machine")
    config = tmp_path / "envoy.yaml"
    config.write_text(shown(manifests))
    checked = subprocess.run(
        [program, "--mode", "validate", "-c", str(config)], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode()


def test_its_pods_are_restricted_and_not_the_gateways(manifests: list[Manifest]) -> None:
    pod = pods(manifests)[f"Deployment/{NAME}"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert "env" not in container
    name, _, tag = container["image"].rpartition(":")
    assert name
    assert tag not in ("", "latest")
    labels = of_kind(manifests, "Deployment")[NAME]["spec"]["template"]["metadata"]["labels"]
    for service in of_kind(manifests, "Service").values():
        mine = service["metadata"]["name"] == NAME
        assert (service["spec"]["selector"].items() <= labels.items()) == mine


def test_a_digest_names_its_image(helm: ModuleType) -> None:
    digest = "sha256:" + "a" * 64
    values = ON | {"grpcWeb": {"enabled": True, "image": {"digest": digest}}}
    pod = pods(helm.render("gateway", values).manifests)[f"Deployment/{NAME}"]
    assert pod["containers"][0]["image"] == f"envoyproxy/envoy@{digest}"


def test_it_reaches_the_gateway_and_nothing_else(manifests: list[Manifest]) -> None:
    policies = of_kind(manifests, "NetworkPolicy")
    own = policies[NAME]["spec"]
    deployments = of_kind(manifests, "Deployment")
    selectors = {n: d["spec"]["selector"]["matchLabels"] for n, d in deployments.items()}
    assert own["podSelector"]["matchLabels"] == selectors[NAME]
    assert own["ingress"][0]["from"] == ON["networkPolicy"]["from"]
    dns, upstream = own["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert upstream["to"] == [{"podSelector": {"matchLabels": selectors["demo-gateway"]}}]
    assert [port["port"] for port in upstream["ports"]] == [50051, 8000]
    let_in = policies[f"{NAME}-upstream"]["spec"]
    assert let_in["podSelector"]["matchLabels"] == selectors["demo-gateway"]
    assert let_in["ingress"][0]["from"] == [{"podSelector": {"matchLabels": selectors[NAME]}}]


def test_manifests_are_valid(helm: ModuleType, manifests: list[Manifest]) -> None:
    assert not list(helm.invalid(manifests))


def test_tls_between_the_services_is_refused(helm: ModuleType) -> None:
    values = ON | {"global": {"tls": {"enabled": True, "existingSecret": "certificates"}}}
    with pytest.raises(helm.ChartError, match="do not go together"):
        helm.render("gateway", values)
