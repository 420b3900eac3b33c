"""A house whose conversations are recorded, without a network and without a model."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.recordings.live import Recordings
from backend.recordings.reader import SessionFile
from backend.recordings.store import RecordingStore, StoreOptions
from backend.speech import Voices
from backend.wires.conversations import Conversations
from backend.wires.realtime.session import Dialect
from backend.wires.wire import FirstMessage
from tests.scripted import ScriptedEngine
from tests.sockets import House, Visitor, request_of


class RecordedHouse(House):
    """A server's conversations; visitors say whether they want to be recorded."""

    def __init__(
        self,
        engine: ScriptedEngine | Engine,
        store: RecordingStore,
        voices: Voices | None = None,
    ) -> None:
        super().__init__(cast(ScriptedEngine, engine))
        self.store = store
        self.recordings = Recordings(store, lambda: cast(Checkpoint, engine.checkpoint))
        self.conversations = Conversations(
            self.engine, self.admission, self.time, recordings=self.recordings
        )
        self._voices = voices or self._voices

    def talk(
        self,
        title: str | None,
        dialect: Dialect = Dialect.DUPLEX,
        first_message: FirstMessage | None = None,
    ) -> Visitor:
        """Somebody comes; a title has the conversation recorded."""
        request = request_of(
            self.engine, dialect, first_message, voices=self._voices, recording_title=title
        )
        visitor = Visitor(self.conversations, request)
        self._visitors.append(visitor)
        return visitor

    async def stopped(self, visitor: Visitor) -> SessionFile:
        """The file of a recording that its client stops now."""
        visitor.send("recording.stop")
        stopped = await visitor.until("recording.stopped")
        assert stopped["reason"] == "client"
        return SessionFile(self.store.find(stopped["recording_id"]))


@asynccontextmanager
async def recorded_house(
    engine: ScriptedEngine | Engine,
    folder: Path,
    max_mb: float = 100.0,
    voices: Voices | None = None,
) -> AsyncIterator[RecordedHouse]:
    """Such a house while the block runs; at its end everything is packed."""
    store = RecordingStore(StoreOptions(folder, max_mb, may_share=True))
    opened = RecordedHouse(engine, store, voices)
    try:
        yield opened
    finally:
        await opened.empty()
        await opened.recordings.close()
