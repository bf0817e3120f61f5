"""One gRPC service, put together from the classes that each answer some of its methods."""

from __future__ import annotations

from typing import Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["ToolRunnerService"]
FULL_NAME: Final = _SERVICE.full_name
_METHODS: Final = tuple(method.name for method in _SERVICE.methods)


class ToolRunnerServicer:
    """The public face of tool_runner: each method of the contract, answered by exactly one part."""

    def __init__(self, *parts: object) -> None:
        for name in _METHODS:
            answers = [getattr(part, name) for part in parts if hasattr(part, name)]
            if len(answers) != 1:
                raise ValueError(f"{len(answers)} parts answer {name}")
            setattr(self, name, answers[0])
