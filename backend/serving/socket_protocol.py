"""The WebSocket protocol of the server: uvicorn's, but no peer can hold a closed socket open."""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CLOSING_SECONDS = 5.0
"""For what was still to be sent, and for the closing handshake."""


class RealtimeSocket(WebSocketsSansIOProtocol):
    """Lets go of peers that read no more.

    A transport that is closed first sends what waits, for as long as the peer may take: one that
    does not read would keep its socket and what it was to be sent in memory for ever.
    """

    async def run_asgi(self) -> None:
        """Serve the socket, then have it closed soon whatever the peer does."""
        await super().run_asgi()
        self.loop.call_later(CLOSING_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The peer answers no more: there is nobody to say goodbye to."""
        super().keepalive_timeout()
        self.transport.abort()
