"""Sessions: the workspaces of conversations while they are open here."""

from __future__ import annotations

import math
from typing import Any, Final

from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from google.protobuf import timestamp_pb2
from meshkit.context import current_principal
from meshkit.errors import MeshError

from agentmesh_tool_runner.sandbox.model import Session, WorkspaceKey
from agentmesh_tool_runner.sandboxes import Sandboxes

from .errors import rich_errors

_YEAR_SECONDS: Final = 365 * 24 * 3600.0


class SessionMethods:
    """GetSession, ListSessions and CloseSession."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def GetSession(  # noqa: N802 - as the contract names it
        self, request: pb.GetSessionRequest, context: Any
    ) -> pb.GetSessionResponse:
        """An open one."""
        for session in self._sessions():
            if session.conversation_id == request.conversation_id:
                return pb.GetSessionResponse(session=session)
        raise MeshError.not_found("session", request.conversation_id)

    async def ListSessions(  # noqa: N802 - as the contract names it
        self, request: pb.ListSessionsRequest, context: Any
    ) -> pb.ListSessionsResponse:
        """All that are open."""
        return pb.ListSessionsResponse(sessions=self._sessions())

    def _sessions(self) -> list[pb.Session]:
        with rich_errors():
            backend = self._sandboxes.backend
        found = [
            _message(session, backend.name)
            for session in backend.sessions(current_principal().tenant)
            if not session.key.temporary
        ]
        return sorted(found, key=lambda session: session.conversation_id)

    async def CloseSession(  # noqa: N802 - as the contract names it
        self, request: pb.CloseSessionRequest, context: Any
    ) -> pb.CloseSessionResponse:
        """Now."""
        key = WorkspaceKey(current_principal().tenant, request.conversation_id)
        with rich_errors():
            closed = await self._sandboxes.backend.close_session(key, kill=request.kill)
        if not closed:
            raise MeshError.not_found("session", request.conversation_id)
        return pb.CloseSessionResponse()


def _message(session: Session, backend: str) -> pb.Session:
    return pb.Session(
        conversation_id=session.key.conversation,
        backend=backend,
        opened_at=_time(session.opened_at),
        used_at=_time(session.used_at),
        idle_expires_at=_later(session.used_at, session.idle_seconds),
        expires_at=_later(session.opened_at, session.lifetime_seconds),
        users=session.users,
        executions=session.executions,
    )


def _later(since: float, seconds: float) -> timestamp_pb2.Timestamp | None:
    return None if math.isinf(seconds) else _time(since + min(seconds, 100 * _YEAR_SECONDS))


def _time(seconds: float) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
