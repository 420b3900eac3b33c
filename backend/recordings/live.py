"""Conversations that are recorded now: begun, ended and packed beside the event loop."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from backend.config import CHUNK_SECONDS, SessionSettings
from backend.errors import AudioInteractionError, CheckpointError, RecordingError
from backend.model.fingerprint import fingerprint
from backend.recordings.reader import size_of
from backend.recordings.recorder import Recorder, describe
from backend.recordings.store import PRIVATE_MODE, RecordingStore

if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why a recording ended."""

    CLIENT = "client"
    """The client asked for it; the conversation goes on."""
    SESSION_ENDED = "session_ended"
    """So did the conversation."""
    FAILED = "failed"
    """It could not go on; the conversation does."""
    DELETED = "deleted"
    """It was deleted; the conversation goes on."""


@dataclass(frozen=True, slots=True)
class RecordingStopped:
    """What a recording came to."""

    recording_id: str
    seconds: float
    num_bytes: int | None
    """None while it is still being packed."""
    reason: StopReason
    message: str | None = None
    """Why it failed, in a sentence."""


@dataclass(frozen=True, slots=True)
class LiveRecording:
    """A recording in progress, which its conversation holds."""

    recording_id: str
    title: str
    started_at: datetime
    recorder: Recorder

    @property
    def seconds(self) -> float:
        """How long the microphone was heard."""
        return round(self.recorder.num_chunks * CHUNK_SECONDS, 3)


@dataclass(slots=True)
class _Going:
    live: LiveRecording
    tell: Callable[[RecordingStopped], None]
    ending: "asyncio.Task[RecordingStopped] | None" = None


class Recordings:
    """Begins and ends recordings. Belongs to one event loop, and never holds it up.

    Args:
        store: where they go.
        checkpoint: gives the one that conversations are held with now.
    """

    def __init__(self, store: RecordingStore, checkpoint: "Callable[[], Checkpoint]") -> None:
        self.store = store
        self._checkpoint = checkpoint
        self._going: dict[str, _Going] = {}
        self._discarding: set[asyncio.Future[None]] = set()

    def get_ready(self) -> None:
        """Read the checkpoint's files, so that the first to be recorded need not wait for that.

        It takes seconds for a large one; may be done on any thread.
        """
        try:
            fingerprint(self._checkpoint())
        except CheckpointError as error:
            logger.warning("nothing can be recorded: %s", error)

    def is_live(self, recording_id: str) -> bool:
        """Whether it goes on, here or at another server of the same folder."""
        return recording_id in self._going or self.store.is_held(recording_id)

    async def begin(
        self,
        settings: SessionSettings,
        max_positions: int,
        title: str,
        tell: Callable[[RecordingStopped], None],
    ) -> LiveRecording:
        """Start to record; the recorder is the trace of the session that follows.

        Args:
            settings: with which the conversation begins.
            max_positions: of its context.
            title: what it is called.
            tell: is told once, on the event loop, when the recording has ended and is packed.

        Raises:
            RecordingError: there is no room, or nothing can be written.
        """
        loop = asyncio.get_running_loop()
        failed: list[str] = []

        def notice(_: str) -> None:
            # Where the loop is closed, its end is told no more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end_failed, failed[0])

        def start() -> LiveRecording:
            manifest = describe(self._checkpoint(), settings, max_positions, title=title)
            recording_id, path = self.store.new_path()
            failed.append(recording_id)
            # Closed to other users of this machine, also in a folder that is not.
            recorder = Recorder(
                path, manifest, notice, take_room=self.store.take_room, mode=PRIVATE_MODE
            )
            return LiveRecording(recording_id, manifest.title, manifest.started_at, recorder)

        def discard(started: "asyncio.Future[LiveRecording]") -> None:
            if not started.cancelled() and started.exception() is None:
                live = started.result()
                self._going[live.recording_id] = _Going(live, lambda _: None)
                deleting = asyncio.ensure_future(self.delete(live.recording_id))
                self._discarding.add(deleting)
                deleting.add_done_callback(self._discarding.discard)

        starting = loop.run_in_executor(None, start)
        try:
            live = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(discard)
            raise
        except RecordingError:
            raise
        except (AudioInteractionError, OSError) as error:
            # It names places on the server.
            logger.warning("nothing can be recorded: %s", error)
            raise RecordingError(
                "nothing can be recorded on this server: its log says why", "recording_failed"
            ) from error
        self._going[live.recording_id] = _Going(live, tell)
        return live

    def end(self, recording_id: str, reason: StopReason) -> "asyncio.Task[RecordingStopped] | None":
        """Have a recording end; the task is done when it is packed. None where it has ended."""
        going = self._going.get(recording_id)
        if going is None:
            return None
        if going.ending is None:
            going.ending = asyncio.create_task(self._end(going, reason))
        return going.ending

    async def abandon(self, live: LiveRecording) -> None:
        """Leave nothing of a recording whose conversation could not begin."""
        # Its recorder may have failed meanwhile.
        if (going := self._going.get(live.recording_id)) is not None:
            going.tell = lambda _: None
        try:
            await self.delete(live.recording_id)
        except RecordingError as error:
            logger.warning("a recording without a conversation is left behind: %s", error)

    async def delete(self, recording_id: str) -> None:
        """Remove a recording, which is ended first where it goes on.

        Raises:
            RecordingError: there is none with this id, or it cannot be removed.
        """
        if (ending := self.end(recording_id, StopReason.DELETED)) is not None:
            await asyncio.shield(ending)
        await asyncio.to_thread(self.store.delete, recording_id)

    async def close(self) -> None:
        """End all that go on, and wait until everything is packed."""
        for recording_id in list(self._going):
            self.end(recording_id, StopReason.SESSION_ENDED)
        endings = [going.ending for going in self._going.values() if going.ending is not None]
        await asyncio.gather(*endings)

    def _end_failed(self, recording_id: str) -> None:
        self.end(recording_id, StopReason.FAILED)

    async def _end(self, going: _Going, reason: StopReason) -> RecordingStopped:
        live = going.live
        num_bytes = 0
        try:
            num_bytes = await asyncio.to_thread(self._pack, live)
            failure = live.recorder.failure
            if live.recorder.is_deleted:
                reason, failure = StopReason.DELETED, None
        except Exception as error:  # whatever it is, the client is told
            logger.warning("a recording's file cannot be looked at: %r", error)
            failure = "the recording has ended, and its file cannot be looked at"
        finally:
            del self._going[live.recording_id]
        stopped = RecordingStopped(
            recording_id=live.recording_id,
            seconds=live.seconds,
            num_bytes=num_bytes,
            reason=StopReason.FAILED if failure else reason,
            message=failure,
        )
        going.tell(stopped)
        return stopped

    def _pack(self, live: LiveRecording) -> int:
        recorder = live.recorder
        path: Path = recorder.close() or recorder.folder
        self.store.count()
        return size_of(path)
