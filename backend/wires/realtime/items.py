"""The items of a conversation, as clients may ask for them."""

from collections import OrderedDict

from backend.conversation.settings import Modality
from backend.wires.errors import WireError
from backend.wires.realtime.server_messages import Content, Item, ItemStatus

MAX_ITEMS = 200
"""The newest are kept: a conversation may go on for days."""


class Items:
    """What was said, in order, by id."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._last_id: str | None = None

    def add(self, item: Item) -> str | None:
        """Append `item`; returns the id of the one before it."""
        previous, self._last_id = self._last_id, item["id"]
        self._items[item["id"]] = item
        while len(self._items) > MAX_ITEMS:
            self._items.popitem(last=False)
        return previous

    def change(self, item: Item) -> None:
        """`item` takes the place of the one with its id, if that is kept still."""
        if item["id"] in self._items:
            self._items[item["id"]] = item

    def find(self, item_id: str) -> Item:
        """The item with this id.

        Raises:
            WireError: there is none, or it is too old.
        """
        item = self._items.get(item_id)
        if item is None:
            raise WireError(
                f"there is no item {item_id[:64]!r} in this conversation",
                "item_not_found",
                "item_id",
            )
        return item

    def require_new(self, item_id: str | None) -> None:
        """Refuse an id that is taken.

        Raises:
            WireError: it is.
        """
        if item_id in self._items:
            raise WireError(
                f"there is an item {item_id!r} already", "item_id_already_taken", "item.id"
            )


def message_item(item_id: str, status: ItemStatus, role: str, content: list[Content]) -> Item:
    """What the user or the model said."""
    return {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


def user_audio_item(item_id: str) -> Item:
    """A user's utterance; there is no transcript of it."""
    heard: Content = {"type": "input_audio", "transcript": None}
    return message_item(item_id, "completed", "user", [heard])


def reply_item(item_id: str, status: ItemStatus, modality: Modality, text: str | None) -> Item:
    """A reply; without content while it is in progress."""
    content = [] if text is None else [_reply_content(modality, text)]
    return message_item(item_id, status, "assistant", content)


def reply_part(modality: Modality, text: str) -> Content:
    """The only content part of a reply, as the messages about content parts hold it."""
    if modality == "audio":
        return {"type": "audio", "transcript": text}
    return {"type": "text", "text": text}


def _reply_content(modality: Modality, text: str) -> Content:
    """The same part as an item holds it."""
    if modality == "audio":
        return {"type": "output_audio", "transcript": text}
    return {"type": "output_text", "text": text}
