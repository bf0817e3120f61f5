"""Settings that are the gateway's alone."""

from __future__ import annotations

import pytest
from agentmesh_gateway.settings import GatewaySettings
from meshkit.settings import load_settings


@pytest.mark.parametrize(("debug", "level"), [("true", "DEBUG"), ("false", "INFO"), ("", "INFO")])
def test_debug_means_detailed_logs(monkeypatch: pytest.MonkeyPatch, debug: str, level: str) -> None:
    monkeypatch.setenv("APP_DEBUG", debug)
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    assert load_settings(GatewaySettings).log_level == level
