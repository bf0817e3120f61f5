"""A WebSocket connection whose handshake may be refused without a word in the log, and which is
counted until it is closed."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from agentmesh_gateway.http.connections import Place


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn reports every handshake that an application answers with an HTTP error as a defect of
    the application, so that strangers could fill the log."""

    place: Place

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives back the place of the connection."""
        self.place.leave()
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        """One message of the application; a whole HTTP response ends the handshake."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True
