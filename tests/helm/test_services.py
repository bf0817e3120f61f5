"""Services select pods, routes lead to services, and every port is listened on."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from .conftest import Manifest, of_kind

CASES = ("default", "minimal", "production")


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [m for m in manifests if m["kind"] in {"Deployment", "StatefulSet"}]


@pytest.mark.parametrize("case", CASES)
def test_each_service_selects_one_workload_and_its_ports(
    umbrella: dict[str, Any], case: str
) -> None:
    services = of_kind(umbrella[case], "Service")
    assert len(services) == 8
    for name, service in services.items():
        selected = [
            w
            for w in workloads(umbrella[case])
            if service["spec"]["selector"].items()
            <= w["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert [w["metadata"]["name"] for w in selected] == [name.removesuffix("-headless")]
        ports = selected[0]["spec"]["template"]["spec"]["containers"][0]["ports"]
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= {p["name"] for p in ports}


@pytest.mark.parametrize("case", CASES)
def test_addresses_lead_to_headless_services(umbrella: dict[str, Any], case: str) -> None:
    services = of_kind(umbrella[case], "Service")
    found = set()
    for workload in workloads(umbrella[case]):
        for variable in workload["spec"]["template"]["spec"]["containers"][0]["env"]:
            # What a pod says of itself has a test of its own.
            said = variable["name"] == "AGENTMESH_ADVERTISED_ADDRESS"
            if variable["name"].endswith("_ADDRESS") and not said:
                host, _, port = variable["value"].partition(":")
                service = services[host.split(".")[0]]
                assert host.split(".")[1:] == [service["metadata"]["namespace"], "svc"]
                assert service["spec"]["clusterIP"] == "None"
                assert service["spec"]["ports"][0]["port"] == int(port)
                component = workload["metadata"]["labels"]["app.kubernetes.io/component"]
                found.add((component, variable["name"]))
    assert found == {
        ("gateway", "AGENTMESH_STORE_ADDRESS"),
        ("gateway", "AGENTMESH_RUNTIME_ADDRESS"),
        ("gateway", "AGENTMESH_TOOL_RUNNER_ADDRESS"),
        ("agent-runtime", "AGENTMESH_STORE_ADDRESS"),
        ("agent-runtime", "AGENTMESH_TOOL_RUNNER_ADDRESS"),
        ("tool-runner", "AGENTMESH_STORE_ADDRESS"),
    }


def test_ingresses_lead_to_the_gateway(helm: ModuleType) -> None:
    values = {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "http": {"host": "api.example.com", "tlsSecret": "api"},
            "grpc": {
                "host": "grpc.example.com",
                "tlsSecret": "grpc",
                "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"},
            },
        }
    }
    manifests = helm.render("gateway", values).manifests
    assert list(helm.invalid(manifests)) == []
    service = of_kind(manifests, "Service")["demo-gateway"]
    ports = {port["name"] for port in service["spec"]["ports"]}
    ingresses = of_kind(manifests, "Ingress")
    assert ingresses.keys() == {"demo-gateway-http", "demo-gateway-grpc"}
    for name, ingress in ingresses.items():
        (rule,) = ingress["spec"]["rules"]
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend["name"] == "demo-gateway"
        assert backend["port"]["name"] == name.rpartition("-")[2]
        assert backend["port"]["name"] in ports
        assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]


def test_routes_lead_to_the_gateway(umbrella: dict[str, Any]) -> None:
    ports = of_kind(umbrella["production"], "Service")["demo-gateway"]["spec"]["ports"]
    numbers = {port["name"]: port["port"] for port in ports}
    for kind, port in (("HTTPRoute", "http"), ("GRPCRoute", "grpc")):
        (route,) = of_kind(umbrella["production"], kind).values()
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": "demo-gateway", "port": numbers[port]}]
        assert route["spec"]["parentRefs"]


@pytest.mark.parametrize(("value", "name"), [("agents", "agents"), ("modelProfiles", "models")])
def test_changed_definitions_change_the_pods(helm: ModuleType, value: str, name: str) -> None:
    def template(definitions: dict[str, Any]) -> Any:
        manifests = helm.render("agent-runtime", {value: definitions}).manifests
        return of_kind(manifests, "Deployment")["demo-agent-runtime"]["spec"]["template"]

    assert template({"a": {"name": "A"}})["metadata"] != template({"a": {"name": "B"}})["metadata"]
    spec = template({"a": {"name": "A"}})["spec"]
    (container,) = spec["containers"]
    environment = {v["name"]: v.get("value") for v in container["env"]}
    folder = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == name)
    assert environment[f"AGENTMESH_{name.upper()}_FILE"] == f"{folder}/{name}.yaml"
    assert any(
        v.get("configMap", {}).get("name") == f"demo-agent-runtime-{name}" for v in spec["volumes"]
    )


def test_each_pod_of_the_tool_runner_says_where_it_is(
    helm: ModuleType, cases: dict[str, dict[str, Any]]
) -> None:
    values = cases["production"] | {"tool-runner": {"replicas": 3}}
    manifests = helm.render(helm.UMBRELLA, values).manifests
    runner = of_kind(manifests, "StatefulSet")["demo-tool-runner"]["spec"]
    assert runner["replicas"] == 3
    (container,) = runner["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    named = variables["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert named == "metadata.name"
    address = variables["AGENTMESH_ADVERTISED_ADDRESS"]["value"]
    host, _, port = address.partition(":")
    service = of_kind(manifests, "Service")[runner["serviceName"]]
    name = service["metadata"]["name"]
    assert host.startswith(f"$(POD_NAME).{name}.")
    assert host.endswith(".svc")
    assert int(port) in {each["port"] for each in service["spec"]["ports"]}
    certificate = of_kind(manifests, "Certificate")["demo-tool-runner"]
    assert f"*{host.removeprefix('$(POD_NAME)')}" in certificate["spec"]["dnsNames"]
