"""What has happened in a conversation since the last look."""

from collections.abc import Iterator

from client.conversation import HeardEntry, Turn, TypedEntry
from client.live import Live


class News:
    """Tells each reply once it is over, what was typed and what was heard, in order."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._conversation = live.conversation
        self._num_told = 0

    def entries(self) -> Iterator[Turn | TypedEntry | HeardEntry]:
        """Those that are over since the last look; one that goes on keeps back what follows."""
        if self._conversation is not self._live.conversation:
            self._conversation, self._num_told = self._live.conversation, 0
        for entry in self._conversation.entries.since(self._num_told):
            if isinstance(entry, Turn) and entry.end_seconds is None:
                return
            # Nothing is added to what was heard once something has followed it.
            if isinstance(entry, HeardEntry) and self._goes_on(entry):
                return
            self._num_told += 1
            yield entry

    def _goes_on(self, heard: HeardEntry) -> bool:
        return not heard.is_over and self._conversation.entries.last is heard
