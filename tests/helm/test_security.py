"""What pods may do, what they are given, and where secrets stand."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest

from .conftest import of_kind, pods

SECRET_NAMES = re.compile(r"(_SECRET|PASSWORD|_TOKEN|API_KEY|POSTGRES_URL|REDIS_URL)$")
CASES = ("default", "minimal", "production")


@pytest.mark.parametrize("case", CASES)
def test_pods_are_restricted(umbrella: dict[str, Any], case: str) -> None:
    found = pods(umbrella[case])
    assert len(found) >= 5
    for name, pod in found.items():
        assert pod["automountServiceAccountToken"] is False, name
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "hostNetwork" not in pod, name
        assert "hostPID" not in pod, name
        assert not [v for v in pod["volumes"] if "hostPath" in v] if "volumes" in pod else True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert rights["runAsNonRoot"] is True, name


@pytest.mark.parametrize("case", CASES)
def test_containers_have_requests_and_limits(umbrella: dict[str, Any], case: str) -> None:
    for name, pod in pods(umbrella[case]).items():
        for container in pod["containers"]:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), name


def test_the_runtime_gets_what_the_deployment_guide_says(umbrella: dict[str, Any]) -> None:
    (container,) = pods(umbrella["default"])["Deployment/demo-agent-runtime"]["containers"]
    assert container["resources"] == {
        "requests": {"memory": "2Gi", "cpu": "1000m"},
        "limits": {"memory": "4Gi", "cpu": "2000m"},
    }


@pytest.mark.parametrize("case", CASES)
def test_no_secret_stands_in_plain_sight(umbrella: dict[str, Any], case: str) -> None:
    seen = set()
    for name, pod in pods(umbrella[case]).items():
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if SECRET_NAMES.search(variable["name"]):
                    seen.add(variable["name"])
                    assert "value" not in variable, f"{name}: {variable['name']}"
                    assert variable["valueFrom"]["secretKeyRef"]["key"], name
    assert {"AGENTMESH_INTERNAL_SECRET", "API_KEY_SECRET"} <= seen


def test_production_makes_no_secret_of_its_own(umbrella: dict[str, Any]) -> None:
    assert of_kind(umbrella["production"], "Secret") == {}


def test_only_the_store_reads_the_pepper_and_the_database(umbrella: dict[str, Any]) -> None:
    for name, pod in pods(umbrella["production"]).items():
        names = {v["name"] for c in pod["containers"] for v in c.get("env", [])}
        owned = names & {"API_KEY_SECRET", "POSTGRES_URL"}
        assert bool(owned) == name.endswith("conversation-store"), name
        assert ("REDIS_URL" in names) == name.endswith(("conversation-store", "gateway")), name
        assert ("OPENAI_API_KEY" in names) == name.endswith("agent-runtime"), name


def test_termination_waits_for_the_drain(helm: ModuleType) -> None:
    values = {"drainSeconds": 120, "preStopSeconds": 7}
    (pod,) = [
        p for n, p in pods(helm.render("agent-runtime", values).manifests).items() if "Depl" in n
    ]
    assert pod["terminationGracePeriodSeconds"] > 120 + 7
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    environment = {v["name"]: v.get("value") for v in container["env"]}
    assert environment["AGENTMESH_DRAIN_SECONDS"] == "120"


def test_probes_speak_tls_where_the_service_does(umbrella: dict[str, Any]) -> None:
    for case, how in (("default", "grpc"), ("production", "exec")):
        for name, pod in pods(umbrella[case]).items():
            for container in pod["containers"]:
                if container["name"] == "health":
                    continue
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    assert how in container[probe], (case, name)


def test_mutual_tls_mounts_each_service_its_certificate(umbrella: dict[str, Any]) -> None:
    certificates = of_kind(umbrella["production"], "Certificate")
    assert len(certificates) == 4
    for name, pod in pods(umbrella["production"]).items():
        (container,) = pod["containers"]
        (mount,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "tls"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "tls"]
        owner = name.partition("/")[2].removesuffix("-health")
        assert volume["secret"]["secretName"] == certificates[owner]["spec"]["secretName"]
        if container["name"] == "health":
            assert container["command"][-2:] == ["--tls", mount]
        else:
            assert ["--tls", mount] == container["readinessProbe"]["exec"]["command"][-2:]
            environment = {v["name"]: v.get("value") for v in container["env"]}
            assert environment["AGENTMESH_TLS_CERT_FILE"] == f"{mount}/tls.crt"
            wanted = "false" if owner.endswith("gateway") else "true"
            assert environment["AGENTMESH_TLS_REQUIRE_CLIENT_CERT"] == wanted
    for manifest in umbrella["production"]:
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            for variable in manifest["spec"]["template"]["spec"]["containers"][0]["env"]:
                if variable["name"].endswith("_ADDRESS"):
                    host = variable["value"].partition(":")[0].replace("$(POD_NAME)", "*")
                    names = [n for c in certificates.values() for n in c["spec"]["dnsNames"]]
                    assert host in names


def test_disruption_budgets_exist_where_a_pod_can_be_spared(umbrella: dict[str, Any]) -> None:
    assert of_kind(umbrella["minimal"], "PodDisruptionBudget") == {}
    assert set(of_kind(umbrella["default"], "PodDisruptionBudget")) == {
        "demo-gateway",
        "demo-agent-runtime",
    }
    assert len(of_kind(umbrella["production"], "PodDisruptionBudget")) == 3


def test_scaled_deployments_leave_their_replicas_to_the_scaler(umbrella: dict[str, Any]) -> None:
    scalers = of_kind(umbrella["production"], "HorizontalPodAutoscaler")
    for name, deployment in of_kind(umbrella["production"], "Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name not in scalers), name
    for scaler in scalers.values():
        assert scaler["spec"]["scaleTargetRef"]["name"] in of_kind(
            umbrella["production"], "Deployment"
        )


def test_what_is_kept_lies_on_the_volume_of_one_pod(umbrella: dict[str, Any]) -> None:
    kept = of_kind(umbrella["default"], "StatefulSet")
    assert kept.keys() == {"demo-conversation-store", "demo-tool-runner"}
    for owner in kept.values():
        assert owner["spec"]["replicas"] == 1
        (claim,) = owner["spec"]["volumeClaimTemplates"]
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        environment = {v["name"]: v.get("value") for v in container["env"]}
        assert mounts[claim["metadata"]["name"]] == environment["AGENTMESH_DATA_DIR"]
    assert of_kind(umbrella["production"], "StatefulSet").keys() == {"demo-tool-runner"}


@pytest.mark.parametrize("mode", ["restricted", "userNamespaces", "privileged"])
def test_sandbox_modes(helm: ModuleType, mode: str) -> None:
    values = {"sandbox": {"mode": mode, "acceptPrivileged": True}}
    rendered = helm.render("tool-runner", values)
    assert list(helm.invalid(rendered.manifests)) == []
    pod = pods(rendered.manifests)["StatefulSet/demo-tool-runner"]
    rights = pod["containers"][0]["securityContext"]
    assert rights.get("privileged", False) == (mode == "privileged")
    assert ("hostUsers" in pod) == (mode == "userNamespaces")
    assert (rights.get("procMount") == "Unmasked") == (mode == "userNamespaces")
    if mode == "userNamespaces":
        # Without a user namespace of the pod's own none of this may be granted.
        assert pod["hostUsers"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["runAsNonRoot"] is True
    assert ("NO CODE WILL RUN" in rendered.notes) == (mode == "restricted")
    assert ("owns the node" in rendered.notes) == (mode == "privileged")
