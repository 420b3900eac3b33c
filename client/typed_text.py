"""Typed text on its way: kept until the server has it and answers it.

So a lost connection loses none of it and says none of it twice.
"""

import uuid
from typing import Any

from client.wire import RealtimeSocket, WireEvent

HARMLESS = ("item_id_already_taken", "conversation_already_has_active_response")
"""What the server refuses of what was sent again, or while it is about to reply anyway."""


class TypedText:
    """What was typed, and is not known to have arrived or to be answered."""

    def __init__(self, socket: RealtimeSocket) -> None:
        self._socket = socket
        self._waiting: dict[str, str] = {}
        """Texts that are not known to have arrived, by their items' ids."""
        self._is_asking = False
        """What the server had when the connection was lost is not known yet."""
        self._asked_id: str | None = None
        """The item whose answer is asked for: the server takes one request at a time."""
        self._next_id: str | None = None
        """The item whose answer is asked for next; those between are answered with it."""

    @property
    def is_waiting(self) -> bool:
        """Whether something has not arrived, or is not about to be answered."""
        return bool(self._waiting) or self._asked_id is not None

    def is_harmless(self, error: dict[str, Any]) -> bool:
        """Whether the server refused only what nobody misses."""
        return error.get("code") in HARMLESS

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
            case "response.created":
                self._ask_next()
            case "error":
                self._refused(event["error"].get("event_id"))
            case "session.heartbeat_ack" if self._is_asking:
                self._send_again()

    def _refused(self, event_id: str | None) -> None:
        """Sending it again would not help."""
        if event_id is not None:
            self._waiting.pop(event_id, None)
            if self._asked_id is not None and event_id == _request_id(self._asked_id):
                self._ask_next()

    def _send_again(self) -> None:
        self._is_asking = False
        asked, self._asked_id = self._asked_id, None
        # It may have been lost alone; where it was not, the server knows the second for the first.
        if asked is not None and asked not in self._waiting:
            self._ask(asked)
        self._transmit_all()

    def _transmit_all(self) -> None:
        for item_id, text in self._waiting.items():
            self._transmit(item_id, text)

    def _transmit(self, item_id: str, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self._socket.send({"type": "conversation.item.create", "event_id": item_id, "item": item})
        if self._asked_id is None:
            self._ask(item_id)
        else:
            self._next_id = item_id

    def _ask(self, item_id: str) -> None:
        self._asked_id = item_id
        self._socket.send({"type": "response.create", "event_id": _request_id(item_id)})

    def _ask_next(self) -> None:
        """What was asked for comes, or was refused."""
        following, self._asked_id, self._next_id = self._next_id, None, None
        if following is not None:
            self._ask(following)


def _request_id(item_id: str) -> str:
    return f"request_{item_id}"
