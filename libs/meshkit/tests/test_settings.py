"""Settings, and the one line that a wrong one gets."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from meshkit import logs
from meshkit.settings import ServiceSettings, is_loopback, load_settings


class StoreSettings(ServiceSettings):
    grpc_port: int = 50052
    busy_seconds: float = 5


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("AGENTMESH_") or name in {"LOG_LEVEL", "OTEL_EXPORTER_OTLP_ENDPOINT"}:
            monkeypatch.delenv(name)


def test_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text("grpc_port: 7\nbusy_seconds: 9\nlog_level: warning\n", "utf-8")
    monkeypatch.setenv("AGENTMESH_CONFIG_FILE", str(file))
    monkeypatch.setenv("AGENTMESH_GRPC_PORT", "8")
    settings = load_settings(StoreSettings)
    assert (settings.grpc_port, settings.busy_seconds, settings.log_level) == (8, 9, "WARNING")


def test_the_name_that_autogen_gives_the_log_level_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    assert load_settings(StoreSettings).log_level == "INFO"
    monkeypatch.setenv("AUTOGEN_LOG_LEVEL", "DEBUG")
    assert load_settings(StoreSettings).log_level == "DEBUG"


def test_empty_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTMESH_INTERNAL_SECRET", "")
    monkeypatch.setenv("LOG_LEVEL", "")
    settings = load_settings(StoreSettings)
    assert (settings.internal_secret, settings.log_level) == (None, "INFO")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENTMESH_GRPC_PORT", "seventy"),
        ("AGENTMESH_GRPC_PORT", "70000"),
        ("AGENTMESH_INTERNAL_SECRET", "hunter2"),
        ("AGENTMESH_DRAIN_SECONDS", "-1"),
        ("AGENTMESH_MAX_CONNECTIONS", "-1"),
        ("AGENTMESH_HANDSHAKE_SECONDS", "0"),
        ("AGENTMESH_LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("AGENTMESH_TLS_CERT_FILE", "/etc/cert.pem"),
        ("AGENTMESH_CONFIG_FILE", "/nowhere/mesh.yaml"),
    ],
)
def test_a_wrong_value_is_one_line_with_its_variable(
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load_settings(ServiceSettings)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert variable in line
    assert "hunter2" not in line


@pytest.mark.parametrize("content", ["grpc_port: [", "- a\n- b\n", "grpc_port: x"])
def test_a_broken_file_is_one_line(
    content: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(content, "utf-8")
    monkeypatch.setenv("AGENTMESH_CONFIG_FILE", str(file))
    with pytest.raises(SystemExit):
        load_settings(ServiceSettings)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  compared, not bound
        ("::", False),
        ("10.0.0.1", False),
        ("store", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def _record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, message, args, None)
    vars(record).update(extra)
    return record


def test_logs_are_json_lines_without_secrets() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    record = _record(
        "got %s and %s",
        "authorization: Bearer amk_topsecret",
        f"postgres://app:{'pass' + 'word'}@db/x",
        method="Get",
        note=f"key sk-abcdefgh12345678 {token}",
        size=3,
    )
    line = json.loads(logs.JsonFormatter("store").format(record))
    assert (line["service"], line["level"], line["size"]) == ("store", "INFO", 3)
    for secret in ("topsecret", "password", "abcdefgh", token):
        assert secret not in str(line)
    text = logs.ConsoleFormatter("store").format(record)
    assert "topsecret" not in text
    assert "method=Get" in text
