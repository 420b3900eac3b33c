"""Typed text on its way: kept until the server has it.

So a lost connection loses none of it and says none of it twice.
"""

import uuid

from client.wire import RealtimeSocket, WireEvent


class TypedText:
    """What was typed, and is not known to have arrived."""

    def __init__(self, socket: RealtimeSocket) -> None:
        self._socket = socket
        self._waiting: dict[str, str] = {}
        self._is_asking = False

    @property
    def is_waiting(self) -> bool:
        """Whether something has not arrived."""
        return bool(self._waiting)

    def send(self, text: str) -> None:
        """Have the model read it."""
        item_id = f"item_{uuid.uuid4().hex}"
        self._waiting[item_id] = text
        if self._socket.is_attached and not self._is_asking:
            self._transmit(item_id, text)

    def resumed(self) -> None:
        """The connection is back: what the server had is told before it answers a heartbeat."""
        self._is_asking = True
        self._socket.send({"type": "session.heartbeat"})

    def receive(self, event: WireEvent) -> None:
        """An event of the server's."""
        match event["type"]:
            case "session.created":
                self._transmit_all()
            case "conversation.item.added":
                self._waiting.pop(event["item"]["id"], None)
            case "error":
                # Refused: sending it again would not help.
                self._waiting.pop(event["error"].get("event_id"), None)
            case "session.heartbeat_ack" if self._is_asking:
                self._is_asking = False
                self._transmit_all()

    def _transmit_all(self) -> None:
        for item_id, text in self._waiting.items():
            self._transmit(item_id, text)

    def _transmit(self, item_id: str, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self._socket.send({"type": "conversation.item.create", "event_id": item_id, "item": item})
        self._socket.send({"type": "response.create"})
