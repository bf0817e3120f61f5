"""Bad values are refused with a message that names value and remedy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gateway", {"replicas": -1}, "'/replicas': minimum: got -1, want 0"),
    ("gateway", {"replicas": "two"}, "'/replicas'"),
    ("gateway", {"replica": 2}, "additional properties 'replica' not allowed"),
    ("gateway", {"service": {"type": "Loadbalancer"}}, "'/service/type'"),
    ("gateway", {"service": {"ports": {"http": 70000}}}, "'/service/ports/http'"),
    ("gateway", {"image": {"digest": "sha256:12"}}, "'/image/digest'"),
    ("gateway", {"env": {"API_KEY_SECRET": "hunter2"}}, "API_KEY_SECRET"),
    ("gateway", {"env": {"POSTGRES_URL": "postgresql://u:p@h/d"}}, "POSTGRES_URL"),
    ("gateway", {"gatewayApi": {"enabled": True}}, "gatewayApi.parentRefs is empty"),
    (
        "gateway",
        {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
        "autoscaling.maxReplicas (2) is less than autoscaling.minReplicas (5)",
    ),
    ("agent-runtime", {"resources": {"limits": {"cpu": "lots"}}}, "'/resources/limits/cpu'"),
    ("agent-runtime", {"resources": {"limits": None}}, "/resources"),
    ("agent-runtime", {"model": {"temperature": 3}}, "'/model/temperature'"),
    ("agent-runtime", {"model": {"apiKey": "sk-1"}}, "'apiKey' not allowed"),
    (
        "agent-runtime",
        {"agents": {"a": {}}, "agentsConfigMap": "b"},
        "agents and agentsConfigMap exclude each other",
    ),
    ("tool-runner", {"sandbox": {"mode": "none"}}, "'/sandbox/mode'"),
    ("tool-runner", {"sandbox": {"mode": "privileged"}}, "sandbox.acceptPrivileged=true"),
    (
        "tool-runner",
        {"sandbox": {"mode": "userNamespaces", "seccomp": {"type": "Localhost"}}},
        "sandbox.seccomp.localhostProfile names no profile",
    ),
    (
        "conversation-store",
        {"replicas": 2},
        "replicas is 2, but SQLite serves one replica; set replicas=1, or storage.backend=postgres",
    ),
    ("conversation-store", {"autoscaling": {"enabled": True}}, "SQLite serves one replica"),
    ("conversation-store", {"storage": {"backend": "mysql"}}, "'/storage/backend'"),
    (
        "conversation-store",
        {"storage": {"backend": "postgres"}},
        "storage.postgres.existingSecret names no secret",
    ),
    (
        "conversation-store",
        {"storage": {"backend": "postgres", "postgres": {"existingSecret": "pg"}}},
        "storage.blobs.url names no bucket",
    ),
    (
        "conversation-store",
        {"storage": {"redis": {"enabled": True}}},
        "storage.redis.existingSecret names no secret",
    ),
    (
        "gateway",
        {"limits": {"redis": {"enabled": True}}},
        "limits.redis.existingSecret names no secret",
    ),
    ("gateway", {"edge": {"corsAllowOrigins": ["console.example"]}}, "corsAllowOrigins"),
    ("agentmesh", {"gatway": {}}, "additional properties 'gatway' not allowed"),
    ("agentmesh", {"gateway": {"replicas": -1}}, "'/replicas': minimum: got -1, want 0"),
    ("agentmesh", {"conversation-store": {"replicas": 3}}, "SQLite serves one replica"),
    ("agentmesh", {"global": {"tsl": {}}}, "additional properties 'tsl' not allowed"),
    ("agentmesh", {"global": {"logging": {"level": "LOUD"}}}, "'/global/logging/level'"),
    ("agentmesh", {"global": {"telemetry": {"otlpEndpoint": "collector"}}}, "otlpEndpoint"),
    (
        "agentmesh",
        {"global": {"tls": {"enabled": True, "certManager": {"enabled": True}}}},
        "global.tls.certManager.issuer.name is empty",
    ),
    (
        "agentmesh",
        {
            "global": {
                "tls": {
                    "enabled": True,
                    "existingSecret": "own",
                    "certManager": {"enabled": True, "issuer": {"name": "ca"}},
                }
            }
        },
        "exclude each other",
    ),
]


@pytest.mark.parametrize(("chart", "values", "message"), REFUSED)
def test_refused(helm: ModuleType, chart: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.ChartError) as refusal:
        helm.render(chart, values)
    assert message in str(refusal.value)


def test_the_command_says_it_in_one_error(helm: ModuleType, tmp_path: Any) -> None:
    import subprocess
    import sys

    bad = tmp_path / "values.yaml"
    bad.write_text("replicas: -1\n")
    command = [
        sys.executable,
        str(helm.ROOT / "scripts/helm.py"),
        "render",
        "gateway",
        "-f",
        str(bad),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: gateway: values don't meet")
    assert "Traceback" not in ended.stderr
