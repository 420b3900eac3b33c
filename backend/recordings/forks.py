"""Take a recording another way, beside the conversations that go on and not in their way.

A fork has an engine's core of its own with one slot, over the weights that the server has loaded,
in a thread of its own. While a conversation goes on it rests after each of its steps.
"""

import asyncio
import errno
import json
import logging
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backend.admission import Admission
from backend.errors import (
    AudioInteractionError,
    CheckpointError,
    RecordingError,
    SessionFileError,
)
from backend.model.checkpoint import Checkpoint
from backend.model.device import own_stream
from backend.model.fingerprint import fingerprint
from backend.recordings.cache import MAX_PRODUCT_BYTES, Find, read
from backend.recordings.reader import Checked, SessionFile
from backend.recordings.recorder import Recorder
from backend.recordings.replay import Fork, ForkOptions, describe_fork
from backend.recordings.store import needing_room, no_room
from backend.recordings.transcript import Fields
from backend.recordings.work import NAME, Artifact, Order
from backend.recordings.workers import Stop, Workers, WorkStoppedError

logger = logging.getLogger(__name__)

REST = 2.0
"""So many times as long as a step took, a fork rests after it while a conversation goes on."""
LONGEST_REST_SECONDS = 0.2
TOLD_EVERY_SECONDS = 0.2


class AlsoCheckpoint:
    """A checkpoint that a server compares its own with, loaded when that is first asked for.

    Args:
        name: as whoever started the server called it.
        load: takes its time, and raises CheckpointError.
    """

    def __init__(self, name: str, load: Callable[[], Checkpoint]) -> None:
        self.name = name
        self._load = load
        self._loaded: Checkpoint | None = None

    def get(self) -> Checkpoint:
        """It itself; called by the thread of forks alone.

        Raises:
            RecordingError: it cannot be loaded; the server's log says why.
        """
        if self._loaded is None:
            try:
                self._loaded = self._load()
            except CheckpointError as error:
                # The sentence names places on the server.
                logger.error("%s", error)
                raise RecordingError(
                    f"{self.name} cannot be loaded: the server's log says why", "recording_failed"
                ) from error
        return self._loaded


class Forks:
    """Forks of one server: one at a time, the others wait in line.

    Args:
        checkpoint: gives the one that recordings are taken another way with now.
        num_conversations: how many go on now.
        admission: who is next; of one place.
        workers: read what came of it.
        also: what they may be heard with instead, which need not be what they were recorded with.
    """

    def __init__(
        self,
        checkpoint: Callable[[], Checkpoint],
        num_conversations: Callable[[], int],
        admission: Admission,
        workers: Workers,
        also: AlsoCheckpoint | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._also = also
        self._num_conversations = num_conversations
        self._admission = admission
        self._workers = workers
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fork")

    async def run(
        self,
        find: Find,
        options: ForkOptions,
        checked: Checked | None = None,
        *,
        with_also: bool = False,
    ) -> AsyncGenerator[Fields, None]:
        """What is told of a fork, as it comes: `waiting`, `chunk` and at last `story`.

        Who stops to listen stops the fork.

        Args:
            find: where the recording is.
            options: what is to be otherwise.
            checked: what going through it has found; None goes through it here.
            with_also: whether the other checkpoint hears it.

        Raises:
            RecordingError: there is no such recording, it is another checkpoint's, there is no
                other one, or too many wait.
            SettingsError: a setting cannot be, or there is no such chunk.
            SessionFileError: it cannot be repeated.
        """
        also = self._also if with_also else None
        if with_also and also is None:
            raise RecordingError(
                "this server has one checkpoint: start it with --also for another", "invalid_value"
            )
        place = self._admission.enter()
        if place is None:
            if (waiter := self._admission.queue_up()) is None:
                raise RecordingError("too many wait for theirs: try again later", "forks_full")
            try:
                async for standing in self._admission.standings(waiter):
                    yield {"waiting": standing.position}
            except BaseException:
                self._admission.step_out(waiter)
                raise
            place = waiter.place
        assert place is not None, "who has waited has a place"
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Fields | None] = asyncio.Queue()

        def tell(fields: Fields) -> None:
            loop.call_soon_threadsafe(told.put_nowait, fields)

        stop = Stop()
        checkpoint = self._checkpoint()
        job = _Job(checkpoint, also, options, self._num_conversations, self._workers, tell, stop)
        running = loop.run_in_executor(self._thread, lambda: read(find, job.take, checked))

        def done(ended: "asyncio.Future[Fields]") -> None:
            # Also of one whose listener has gone: only now may the next one begin.
            self._admission.leave(place)
            if not ended.cancelled():
                ended.exception()
            told.put_nowait(None)

        running.add_done_callback(done)
        try:
            while (fields := await told.get()) is not None:
                yield fields
            yield {"story": _result(running)}
        finally:
            stop.set()


def _result(ended: "asyncio.Future[Fields]") -> Fields:
    try:
        return ended.result()
    except AudioInteractionError:
        raise
    except Exception as error:
        # A device that has no memory left, say: it is said in words, as conversations go on.
        logger.exception("a fork failed")
        raise RecordingError(
            "the server failed on this: its log says why", "recording_failed"
        ) from error


class _Room:
    """For what one fork records while it goes on: about eight hours."""

    def __init__(self) -> None:
        self._num_left = MAX_PRODUCT_BYTES

    def take(self, num_bytes: int) -> None:
        """Count what is written next.

        Raises:
            OSError: there is no room for it.
        """
        self._num_left -= num_bytes
        if self._num_left < 0:
            raise OSError(errno.EDQUOT, "a fork is longer than the server has room for")


@dataclass(slots=True)
class _Job:
    """One fork; runs on a thread of its own."""

    checkpoint: Checkpoint
    also: AlsoCheckpoint | None
    options: ForkOptions
    num_conversations: Callable[[], int]
    workers: Workers
    tell: Callable[[Fields], None]
    stop: Stop
    told_at: float = 0.0
    rested_at: float = 0.0

    def take(self, file: SessionFile) -> Fields:
        """The transcript of the other way."""
        stated = file.manifest.checkpoint
        if self.also is not None:
            self.checkpoint = self.also.get()
        elif fingerprint(self.checkpoint) != stated.fingerprint:
            raise RecordingError(
                f"it was recorded with another checkpoint, {stated.name}: take it another way on "
                "the command line, with `app.py replay --from-chunk`",
                "other_checkpoint",
            )
        self.options.require_chunk_of(file)
        stream = own_stream(self.checkpoint.device)
        with needing_room(), stream, tempfile.TemporaryDirectory() as folder:
            path = self._record(file, Path(folder) / "fork.aisession")
            story = Path(folder) / "story"
            order = Order(
                path=path, wanted=Artifact.TRANSCRIPT, output=story, max_bytes=MAX_PRODUCT_BYTES
            )
            self.workers.carry_out(order, self.stop)
            fields: Fields = json.loads(story.read_bytes())
            return fields

    def _record(self, file: SessionFile, path: Path) -> Path:
        manifest = describe_fork(self.checkpoint, file, self.options)
        try:
            # A notice would come on another thread: `failure` holds it, too.
            recorder = Recorder(path, manifest, lambda _: None, take_room=_Room().take)
        except SessionFileError as error:
            raise no_room(error) from error

        def before_step() -> None:
            self.rest()
            self.tell_progress(fork.num_chunks, file)

        try:
            fork = Fork(self.checkpoint, file, self.options, recorder, before_step)
            for _ in fork.run():
                recorder.catch_up()
        finally:
            recorder.close()
        if recorder.failure is not None:
            raise no_room(recorder.failure)
        return path

    def rest(self) -> None:
        """Leave the machine to conversations that go on.

        Raises:
            WorkStoppedError: nobody has a use for it any more.
        """
        if self.num_conversations():
            # All since the last rest was work.
            rest = min(REST * (time.monotonic() - self.rested_at), LONGEST_REST_SECONDS)
            self.stop.wait(rest if self.rested_at else 0)
        self.rested_at = time.monotonic()
        if self.stop.is_set:
            raise WorkStoppedError

    def tell_progress(self, num_chunks: int, file: SessionFile) -> None:
        """Say how far it is, now and then, if the recording is still there.

        Raises:
            SessionFileError: it is not.
        """
        if time.monotonic() - self.told_at > TOLD_EVERY_SECONDS:
            self.told_at = time.monotonic()
            if not file.path.exists():
                raise SessionFileError(f"{NAME} was packed or deleted meanwhile")
            self.tell({"chunk": num_chunks, "num_chunks": file.num_chunks})
