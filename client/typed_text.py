"""Typed text on its way: kept until the server has it and answers it.

So a lost connection loses none of it and says none of it twice. `webui/static/typed-text.js` is the
same for the page.
"""

import uuid
from typing import Any, Protocol

from client.wire import WireEvent

HARMLESS = ("item_id_already_taken", "conversation_already_has_active_response")
"""What the server refuses of what was sent again, or while it is about to reply anyway."""


class Link(Protocol):
    """What takes messages to the server."""

    @property
    def is_attached(self) -> bool:
        """Whether the conversation is open, and its connection there."""

    def send(self, event: WireEvent) -> None:
        """Now, or as soon as there is a connection again."""

    def send_audio(self, pcm: bytes) -> None:
        """Only while attached."""


class TypedText:
    """What was typed, and is not known to have arrived or to be answered."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: dict[str, str] = {}
        """Texts that are not known to have arrived, by their items' ids."""
        self._entered_at: dict[str, float] = {}
        """When Enter was pressed for what has no reply yet, by the items' ids, oldest first."""
        self._is_asking = False
        """What the server had when the connection was lost is not known yet."""
        self._asked_id: str | None = None
        """The item whose answer is asked for: the server takes one request at a time."""
        self._last_asked_id: str | None = None
        """The last whose answer was asked for, which may have been refused since."""
        self._next_id: str | None = None
        """The item whose answer is asked for next; those between are answered with it."""
        self._answer: tuple[str, float | None] | None = None
        """The last reply that began, and since when what it answers had been waiting."""

    @property
    def is_waiting(self) -> bool:
        """Whether something has not arrived, or is not about to be answered."""
        return bool(self._waiting) or self._asked_id is not None

    def is_harmless(self, error: dict[str, Any]) -> bool:
        """Whether the server refused only what is not missed."""
        return error.get("code") in HARMLESS

    def send(self, text: str, now: float) -> None:
        """Have the model read it; Enter was pressed just now."""
        item_id = f"item_{uuid.uuid4().hex}"
        self._waiting[item_id] = text
        self._entered_at[item_id] = now
        if self._link.is_attached and not self._is_asking:
            self._transmit(item_id, text)

    def begun(self) -> None:
        """The conversation is open: what was typed before is sent."""
        self._transmit_all()

    def resumed(self) -> None:
        """The connection is back: what the server had is told before it answers a heartbeat."""
        self._is_asking = True
        self._link.send({"type": "session.heartbeat"})

    def heartbeat_answered(self) -> None:
        """What had arrived is known: the rest is sent again."""
        if not self._is_asking:
            return
        self._is_asking = False
        asked, self._asked_id = self._asked_id, None
        # It may have been lost alone; where it was not, the server knows the second for the first.
        if asked is not None and asked not in self._waiting:
            self._ask(asked)
        self._transmit_all()

    def arrived(self, item_id: str) -> None:
        """The server has it."""
        self._waiting.pop(item_id, None)

    def response_began(self, response_id: str) -> float | None:
        """A reply begins: it answers what was asked for, and the next is asked for.

        Returns:
            When Enter was pressed for the first text that it answers; None where it answers none.
        """
        if self._answer is None or self._answer[0] != response_id:
            self._answer = (response_id, self._take_answered())
            self._ask_next()
        return self._answer[1]

    def refused(self, event_id: str | None) -> None:
        """The server refused one of our messages: sending it again would not help."""
        if event_id is None:
            return
        if self._waiting.pop(event_id, None) is not None:
            self._entered_at.pop(event_id, None)
        if self._asked_id is not None and event_id == _request_id(self._asked_id):
            self._ask_next()

    def _take_answered(self) -> float | None:
        if self._last_asked_id not in self._entered_at:
            return None
        since = next(iter(self._entered_at.values()))
        for item_id in list(self._entered_at):
            del self._entered_at[item_id]
            if item_id == self._last_asked_id:
                break
        return since

    def _transmit_all(self) -> None:
        for item_id, text in self._waiting.items():
            self._transmit(item_id, text)

    def _transmit(self, item_id: str, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self._link.send({"type": "conversation.item.create", "event_id": item_id, "item": item})
        if self._asked_id is None:
            self._ask(item_id)
        else:
            self._next_id = item_id

    def _ask(self, item_id: str) -> None:
        self._asked_id = self._last_asked_id = item_id
        self._link.send({"type": "response.create", "event_id": _request_id(item_id)})

    def _ask_next(self) -> None:
        """What was asked for comes, or was refused."""
        following, self._asked_id, self._next_id = self._next_id, None, None
        if following is not None:
            self._ask(following)


def _request_id(item_id: str) -> str:
    return f"request_{item_id}"
