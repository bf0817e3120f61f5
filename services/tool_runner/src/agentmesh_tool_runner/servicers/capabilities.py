"""What this runner can do, and which isolation holds."""

from __future__ import annotations

from typing import Any

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from google.protobuf import struct_pb2

from agentmesh_tool_runner import translate
from agentmesh_tool_runner.languages import Toolchains
from agentmesh_tool_runner.sandbox.model import Limits
from agentmesh_tool_runner.sandboxes import Sandboxes

from .errors import rich_errors


class CapabilityMethods:
    """GetCapabilities."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        toolchains: Toolchains,
        *,
        default_limits: Limits,
        maximum_limits: Limits,
    ) -> None:
        self._sandboxes = sandboxes
        self._toolchains = toolchains
        self._default_limits = default_limits
        self._maximum_limits = maximum_limits

    async def GetCapabilities(  # noqa: N802 - as the contract names it
        self, request: pb.GetCapabilitiesRequest, context: Any
    ) -> pb.GetCapabilitiesResponse:
        """What the self-test proved."""
        report = self._sandboxes.report
        seen = struct_pb2.Struct()
        seen.update(dict(report.evidence))
        capabilities = [
            pb.Capability(
                name=each.name,
                enforced=each.enforced,
                detail=each.detail,
                evidence=seen if each.name == "isolation" else None,
            )
            for each in report.capabilities
        ]
        ready = self._sandboxes.ready
        with rich_errors():
            support = await self._toolchains.support() if ready else []
        return pb.GetCapabilitiesResponse(
            ready=ready,
            backend=self._sandboxes.backend.name if ready else "",
            languages=[
                translate.LANGUAGE_VALUES[each.language] for each in support if not each.remedy
            ],
            language_info=[translate.language_info(each) for each in support],
            capabilities=capabilities,
            stateful_interpreter=ready and self._sandboxes.backend.keeps_variables,
            warm_sandboxes=self._sandboxes.backend.warm_sandboxes if ready else 0,
            remedy=report.remedy,
            default_limits=translate.limits_message(self._default_limits),
            maximum_limits=translate.limits_message(self._maximum_limits),
        )
