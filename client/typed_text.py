"""Typed text on its way: kept until the server has it and answers it.

So a lost connection loses none of it and says none of it twice.
"""

import uuid
from typing import Any

from client.wire import RealtimeSocket, WireEvent


class TypedText:
    """What was typed, and is not known to have arrived or to be answered."""

    def __init__(self, socket: RealtimeSocket) -> None:
        self._socket = socket
        self._waiting: dict[str, str] = {}
        """Texts that are not known to have arrived, by their items' ids."""
        self._is_unanswered = False
        """Text has arrived for which no response was created."""
        self._is_asking = False
        """What the server had when the connection was lost is not known yet."""
        self._request_id: str | None = None
        """Of the last request for a response."""

    @property
    def is_waiting(self) -> bool:
        """Whether something has not arrived."""
        return bool(self._waiting)

    def is_of_repeating(self, error: dict[str, Any]) -> bool:
        """Whether the server refused only what it had already."""
        return error.get("code") == "item_id_already_taken"

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
                if self._waiting.pop(event["item"]["id"], None) is not None:
                    self._is_unanswered = True
            case "response.created":
                self._is_unanswered = False
            case "error":
                self._refused(event["error"].get("event_id"))
            case "session.heartbeat_ack" if self._is_asking:
                self._is_asking = False
                # One that is asked for with a text that is sent again answers both.
                if self._is_unanswered and not self._waiting:
                    self._request_response()
                self._transmit_all()

    def _refused(self, event_id: str | None) -> None:
        """Sending it again would not help."""
        if event_id is not None:
            self._waiting.pop(event_id, None)
            if event_id == self._request_id:
                self._is_unanswered = False

    def _transmit_all(self) -> None:
        for item_id, text in self._waiting.items():
            self._transmit(item_id, text)

    def _transmit(self, item_id: str, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self._socket.send({"type": "conversation.item.create", "event_id": item_id, "item": item})
        self._request_id = f"request_{item_id}"
        self._request_response()

    def _request_response(self) -> None:
        """The server takes one that it has already for the same."""
        self._socket.send({"type": "response.create", "event_id": self._request_id})
