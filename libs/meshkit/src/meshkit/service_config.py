"""How gRPC itself treats the methods of a service: load balancing, retries, waiting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from meshkit.policy import MethodRules

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(methods: Iterable[MethodRules]) -> str:
    """The gRPC service config as JSON.

    Only methods whose policy says `safe_to_retry` are retried, and only when the service was not
    available. Control streams wait for their service: they have no deadline to miss.
    """
    method_configs: list[dict[str, Any]] = []
    for rules in methods:
        config: dict[str, Any] = {"name": [{"service": rules.service, "method": rules.name}]}
        if rules.safe_to_retry:
            config["retryPolicy"] = _RETRY_POLICY
        if rules.is_control_stream:
            config["waitForReady"] = True
        if len(config) > 1:
            method_configs.append(config)
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": method_configs,
            # Stops retrying a service that fails most calls.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )
