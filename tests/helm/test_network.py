"""Network policies, judged as a network plugin would: who reaches whom, and whom nobody does."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from .conftest import Manifest, of_kind

PORTS = {
    "gateway": 50051,
    "conversation-store": 50052,
    "agent-runtime": 50053,
    "tool-runner": 50054,
}
MAY_CALL = {
    ("gateway", "conversation-store"),
    ("gateway", "agent-runtime"),
    ("gateway", "tool-runner"),
    ("agent-runtime", "conversation-store"),
    ("agent-runtime", "tool-runner"),
    ("tool-runner", "conversation-store"),
}


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside of the cluster."""

    labels: dict[str, str] = field(default_factory=dict)
    namespace: str = "agents"
    address: str = ""
    ports: dict[str, int] = field(default_factory=dict)


def covers(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def matches(entry: dict[str, Any], peer: Peer, namespace: str) -> bool:
    if block := entry.get("ipBlock"):
        if not peer.address:
            return False
        address = ipaddress.ip_address(peer.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(hole) for hole in block.get("except", [])
        )
    if peer.address:
        return False
    if "namespaceSelector" in entry:
        own = {"kubernetes.io/metadata.name": peer.namespace}
        if not covers(entry["namespaceSelector"], own):
            return False
    elif peer.namespace != namespace:
        return False
    return covers(entry.get("podSelector", {}), peer.labels)


def allowed(policies: list[Manifest], pod: Peer, other: Peer, port: int, side: str) -> bool:
    """One side's judgement; `port` is the receiver's."""
    selecting = [p for p in policies if covers(p["spec"]["podSelector"], pod.labels)]
    if pod.namespace != "agents" or pod.address or not selecting:
        return True
    receiver = pod if side == "ingress" else other
    for policy in selecting:
        for rule in policy["spec"][side]:
            numbers = [receiver.ports.get(p["port"], p["port"]) for p in rule.get("ports", [])]
            if numbers and port not in numbers:
                continue
            peers = rule.get("from" if side == "ingress" else "to")
            if not peers or any(matches(entry, other, "agents") for entry in peers):
                return True
    return False


class Cluster:
    """The pods and policies of one release."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.policies = list(of_kind(manifests, "NetworkPolicy").values())
        self.pods: dict[str, Peer] = {}
        for manifest in manifests:
            if manifest["kind"] in {"Deployment", "StatefulSet"}:
                template = manifest["spec"]["template"]
                labels = template["metadata"]["labels"]
                named = {
                    port["name"]: port["containerPort"]
                    for port in template["spec"]["containers"][0]["ports"]
                }
                name = labels["app.kubernetes.io/component"]
                self.pods[name] = Peer(labels=labels, ports=named)

    def reaches(self, source: Peer, target: Peer, port: int) -> bool:
        return allowed(self.policies, source, target, port, "egress") and allowed(
            self.policies, target, source, port, "ingress"
        )


@pytest.fixture(scope="module")
def cluster(umbrella: dict[str, list[Manifest]]) -> Cluster:
    return Cluster(umbrella["default"])


def test_the_mesh_is_connected_as_drawn_and_not_otherwise(cluster: Cluster) -> None:
    reached = {
        (source, target)
        for source, caller in cluster.pods.items()
        for target, callee in cluster.pods.items()
        if source != target and cluster.reaches(caller, callee, PORTS[target])
    }
    # The gateway is open to everybody, but nobody inside has leave to call it.
    assert reached == MAY_CALL


@pytest.mark.parametrize("namespace", ["agents", "elsewhere"])
def test_strangers_reach_the_gateway_alone(cluster: Cluster, namespace: str) -> None:
    stranger = Peer(labels={"app.kubernetes.io/component": "gateway"}, namespace=namespace)
    for name, pod in cluster.pods.items():
        assert cluster.reaches(stranger, pod, PORTS[name]) == (name == "gateway"), name
    assert cluster.reaches(stranger, cluster.pods["gateway"], 8000)


def test_another_mesh_of_the_namespace_is_a_stranger(helm: ModuleType, cluster: Cluster) -> None:
    other = Cluster(helm.render("agentmesh", release="other").manifests)
    cluster_of_both = Cluster([])
    cluster_of_both.policies = cluster.policies + other.policies
    gateway, store = other.pods["gateway"], cluster.pods["conversation-store"]
    assert not cluster_of_both.reaches(gateway, store, PORTS["conversation-store"])


@pytest.mark.parametrize("port", [22, 80, 443, 5432, 6379, 8080])
@pytest.mark.parametrize("address", ["8.8.8.8", "10.0.0.7", "169.254.169.254"])
def test_outside_is_for_models_only(cluster: Cluster, address: str, port: int) -> None:
    outside = Peer(address=address)
    for name, pod in cluster.pods.items():
        expected = name == "agent-runtime" and port == 443 and not address.startswith("169.254")
        assert cluster.reaches(pod, outside, port) == expected, name


def test_names_are_resolved_by_the_cluster_alone(cluster: Cluster) -> None:
    for pod in cluster.pods.values():
        assert cluster.reaches(pod, Peer(namespace="kube-system"), 53)
        assert not cluster.reaches(pod, Peer(namespace="elsewhere"), 53)
        assert not cluster.reaches(pod, Peer(address="8.8.8.8"), 53)


def test_databases_and_collector_in_production(umbrella: dict[str, list[Manifest]]) -> None:
    production = Cluster(umbrella["production"])
    collector = Peer(namespace="observability")
    for name, pod in production.pods.items():
        assert production.reaches(pod, collector, 4317), name
        for port, users in (
            (5432, {"conversation-store"}),
            (6379, {"conversation-store", "gateway"}),
        ):
            database = Peer(address="10.20.0.9")
            assert production.reaches(pod, database, port) == (name in users)
            assert not production.reaches(pod, Peer(address="10.21.0.9"), port)
    gateway = production.pods["gateway"]
    assert production.reaches(Peer(namespace="gateway-system"), gateway, 50051)
    assert not production.reaches(Peer(namespace="elsewhere"), gateway, 50051)


@pytest.mark.parametrize("enabled", [True, False])
def test_health_tests_get_in_only_where_they_run(helm: ModuleType, enabled: bool) -> None:
    manifests = helm.render("conversation-store", {"tests": {"enabled": enabled}}).manifests
    store = Cluster(manifests)
    labels = {
        "app.kubernetes.io/part-of": "demo",
        "app.kubernetes.io/component": "helm-test",
    }
    assert bool(of_kind(manifests, "Pod")) == enabled
    if enabled:
        assert (
            labels.items()
            <= of_kind(manifests, "Pod")["demo-conversation-store-health"]["metadata"][
                "labels"
            ].items()
        )
    assert store.reaches(Peer(labels=labels), store.pods["conversation-store"], 50052) == enabled
