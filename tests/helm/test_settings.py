"""What charts and compose files set is what the services read: names, values and ports."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from meshkit.settings import ServiceSettings, variable_of
from pydantic import ValidationError

from .conftest import pods
from .test_compose import DEPLOY, OWN, VARIANTS, services

# For the interpreter; read before there are settings; named by a model profile's `key_ref`.
BEYOND_SETTINGS = {"PYTHONPATH", "AGENTMESH_CONFIG_FILE", "ANTHROPIC_API_KEY", "POD_NAME"}
# What stands in secrets that are no random text.
SECRETS = {
    "POSTGRES_URL": "postgresql://user:password@host:5432/name",
    "REDIS_URL": "redis://host:6379/0",
}
PORTS = {
    "gateway": 50051,
    "conversation-store": 50052,
    "agent-runtime": 50053,
    "tool-runner": 50054,
}


def settings_of(service: str) -> type[ServiceSettings]:
    """The settings class of a service."""
    module = importlib.import_module(f"agentmesh_{service.replace('-', '_')}.settings")
    classes: list[type[ServiceSettings]] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"{module.__name__} has {len(classes)} settings classes"
    return classes[0]


def variables(settings: type[ServiceSettings]) -> set[str]:
    return {variable_of(settings, name) for name in settings.model_fields}


def chart_environments(umbrella: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Component and environment of each pod, with values in place of its secrets."""
    for manifests in umbrella.values():
        for pod in pods(manifests).values():
            (container,) = pod["containers"]
            if container["name"] != "health":
                environment = {
                    v["name"]: v.get("value", SECRETS.get(v["name"], "s" * 48))
                    for v in container["env"]
                }
                yield container["name"], environment


@pytest.mark.parametrize("service", OWN)
def test_charts_set_what_the_service_reads(umbrella: dict[str, Any], service: str) -> None:
    known = variables(settings_of(service))
    for component, environment in chart_environments(umbrella):
        if component == service:
            assert environment.keys() - BEYOND_SETTINGS <= known


@pytest.mark.parametrize("service", OWN)
@pytest.mark.parametrize("variant", VARIANTS)
def test_compose_sets_what_the_service_reads(service: str, variant: str) -> None:
    known = variables(settings_of(service))
    found = services(DEPLOY / f"docker-compose{variant}.yml")[service]["environment"]
    assert found.keys() - BEYOND_SETTINGS <= known


@pytest.mark.parametrize("service", OWN)
def test_the_service_accepts_the_charts_values(
    umbrella: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service)
    seen = 0
    for component, environment in chart_environments(umbrella):
        if component == service:
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                loaded = settings()
            assert loaded.grpc_port == PORTS[service]
            assert loaded.grpc_host == "0.0.0.0"  # noqa: S104  what a pod has to listen on
            assert str(loaded.data_dir) == environment["AGENTMESH_DATA_DIR"]
            seen += 1
    assert seen == 3


@pytest.mark.parametrize("service", OWN)
def test_default_ports_are_the_charts(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables(settings_of(service)):
        monkeypatch.delenv(name, raising=False)
    assert settings_of(service)().grpc_port == PORTS[service]


def test_probes_ask_for_services_that_exist(helm: ModuleType) -> None:
    from meshkit import trace_service

    (pod,) = [p for n, p in pods(helm.render("gateway").manifests).items() if "Depl" in n]
    (container,) = pod["containers"]
    assert container["livenessProbe"]["grpc"]["service"] == trace_service.FULL_NAME
    assert "service" not in container["readinessProbe"]["grpc"]
    assert container["readinessProbe"]["grpc"]["port"] == PORTS["gateway"]


def test_images_start_with_settings_the_service_reads() -> None:
    for service in OWN:
        folder = service.replace("-", "_")
        text = (DEPLOY.parent / "services" / folder / "Dockerfile").read_text(encoding="utf-8")
        set_here = {
            word.partition("=")[0]
            for word in text.replace("\\\n", " ").split()
            if word.startswith(("AGENTMESH_", "APP_")) and "=" in word
        }
        assert set_here <= variables(settings_of(service)), service
        assert Path("/var/lib/agentmesh").as_posix() in text


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"POSTGRES_URL": "mysql://user:hunter2@host/name"}, "POSTGRES_URL"),
        ({"POSTGRES_URL": "postgresql://user:hunter2@host/name"}, "API_KEY_SECRET"),
    ],
)
def test_the_store_refuses_a_database_it_cannot_share(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], complaint: str
) -> None:
    """Replicas with peppers of their own would not know each other's keys."""
    monkeypatch.delenv("API_KEY_SECRET", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=complaint) as refused:
        settings_of("conversation-store")()
    assert "hunter2" not in str(refused.value)


def test_who_callers_are_reaches_the_gateway_as_it_stands_in_the_values(
    helm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = {"issuer": "https://a.b", "audience": "m", "tenant": "t", "default_role": "user"}
    spiffe = {"trust_domain": "a.b", "path": "/ns/*/sa/{tenant}", "role": "service"}
    identity = {
        "oidc": [issuer],
        "spiffeIds": [spiffe],
        "trustedPeers": ["10.0.0.0/8"],
        "trustedHeaders": ["certificate"],
    }
    edge = {"trustedTracePeers": ["10.1.0.0/16"]}
    manifests = helm.render("gateway", {"identity": identity, "edge": edge}).manifests
    (pod,) = (pod for name, pod in pods(manifests).items() if name.startswith("Deployment"))
    for variable in pod["containers"][0]["env"]:
        if "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
    settings = settings_of("gateway")()
    read = settings.model_dump(exclude_defaults=True)
    assert (read["oidc"][0]["issuer"], read["spiffe_ids"][0]["trust_domain"]) == (
        "https://a.b",
        "a.b",
    )
    assert (read["trusted_peers"], read["trusted_headers"]) == (("10.0.0.0/8",), ("certificate",))
    assert read["trusted_trace_peers"] == ("10.1.0.0/16",)


@pytest.mark.parametrize(
    "identity",
    [
        {"oidc": [{"issuer": "https://a.b"}]},
        {"oidc": [{"issuer": "https://a.b", "audience": "m", "default_role": "king"}]},
        {"spiffeIds": [{"trust_domain": "a.b", "path": "/x", "role": "king"}]},
        {"trustedHeaders": ["all"]},
        {"colour": "red"},
    ],
)
def test_bad_values_of_identity_are_refused(helm: ModuleType, identity: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"identity|oidc|spiffeIds|trustedHeaders"):
        helm.render("gateway", {"identity": identity})
