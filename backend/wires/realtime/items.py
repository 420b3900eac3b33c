"""The items of a conversation, as clients may ask for them."""

from collections import OrderedDict

from backend.wires.errors import WireError
from backend.wires.realtime.server_messages import Item

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
