"""Record a conversation while it goes on: a folder while it lives, one file when it has ended.

The conversation is never held up and never told of an error: its threads put what happens into a
queue, and a thread of the recorder's writes it. Whatever goes wrong on either side ends the
recording, with a notice, and not the conversation; what was written until then is packed.
"""

import logging
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from backend.audio import float_to_pcm16, pcm16_to_float
from backend.config import CHUNK_SAMPLES, VERSION, SamplingConfig, SessionSettings
from backend.errors import SessionFileError
from backend.events import ContextRolled
from backend.model.fingerprint import fingerprint
from backend.recordings.packing import Track, pack, pack_copy
from backend.recordings.reader import (
    EVENTS,
    LIVE_SUFFIX,
    LOCK,
    MANIFEST,
    MAX_CHUNKS,
    MAX_EVENTS_BYTES,
    MAX_HOURS,
    MAX_REPLY_TRACKS,
    MICROPHONE,
    SessionFile,
    reply_track,
)
from backend.recordings.records import (
    CheckpointStated,
    DecisionRecord,
    Drawing,
    EndRecord,
    FailedRecord,
    HeardRecord,
    Manifest,
    Record,
    RolledRecord,
    SessionNote,
    SettingsRecord,
    TokenRecord,
)
from backend.trace import TracedDecision, TracedToken

if TYPE_CHECKING:
    from backend.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

APPLICATION = f"audio-interaction-live {VERSION}"
MAX_WAITING = 4096
"""Facts that may wait for the disk, about 25 MB of them: more, and the recording ends."""
MAX_OPEN_REPLIES = 4
"""Spoken replies whose files are open at once: a process may have about a thousand open."""
_FOLDER_MODE = 0o700
"""Closed to other users of this machine."""
_LOCK_MODE = 0o600

Notice = Callable[[str], None]
TakeRoom = Callable[[int], None]
"""Is told how many bytes are written next; raises OSError where there is no room for them."""


@dataclass(frozen=True, slots=True)
class _Audio:
    """More of a track: 16-bit PCM for the member `name`."""

    name: str
    pcm: bytes


@dataclass(frozen=True, slots=True)
class _Close:
    """Nothing follows."""

    at: float


_Fact = _Audio | Record | _Close


def describe(
    checkpoint: "Checkpoint",
    settings: SessionSettings,
    max_positions: int,
    *,
    title: str = "",
    forked_at_chunk: int | None = None,
) -> Manifest:
    """What a recording of a session says of itself; reads the checkpoint's files the first time.

    Raises:
        CheckpointError: the checkpoint has no files to tell it by.
        SettingsError: the system prompt is too long to be written down.
    """
    prompt = settings.system_prompt
    return Manifest(
        application=APPLICATION,
        started_at=datetime.now(UTC),
        title=title[:512],
        checkpoint=CheckpointStated.model_validate(
            {
                "name": checkpoint.name,
                "fingerprint": fingerprint(checkpoint),
                "device": checkpoint.device.type,
                "dtype": str(checkpoint.dtype).removeprefix("torch."),
                "bits": checkpoint.bits.value,
                "max_positions": max_positions,
            }
        ),
        system_prompt=checkpoint.system_prompt if prompt is None else prompt,
        seed=settings.seed,
        drawing=Drawing.of(settings, settings.sampling or checkpoint.sampling),
        forked_at_chunk=forked_at_chunk,
    )


def unlimited(num_bytes: int) -> None:
    """There is room for any number of bytes, until the disk says otherwise."""


class _RecorderState(Enum):
    """How far a recorder is. It goes from the first to one of the others, once."""

    RECORDING = auto()
    """What happens is written."""
    CLOSED = auto()
    """It was ended, and is packed."""
    FAILED = auto()
    """It could not go on: what was written until then is packed."""


class Recorder:
    """Writes one conversation; is the trace of its session.

    Args:
        path: the file to write. Until `close` a folder beside it, `path` + `.live`, holds all.
        manifest: what holds for the whole conversation.
        notice: is told, in a sentence and once, when the recording had to end or could not be
            packed; by the recorder's thread, or the one that told it something.
        clock: seconds.
        take_room: is asked before anything is written.
        mode: of the file; the system's mask takes from it. The folder is closed to other users.

    Raises:
        SessionFileError: there is such a file already, or none can be written there.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        notice: Notice,
        clock: Callable[[], float] = time.perf_counter,
        take_room: TakeRoom = unlimited,
        mode: int = 0o666,
    ) -> None:
        self.path = Path(path)
        self.failure: str | None = None
        """Why it had to end, or could not be packed; without a place, unlike the notice."""
        self.is_deleted = False
        """Its folder was removed while it went on, by another server of the same one, say."""
        self.folder = self.path.with_name(self.path.name + LIVE_SUFFIX)
        self._notice = notice
        self._clock = clock
        self._began = clock()
        self._arrivals: deque[float] = deque()
        self._queue: queue.Queue[_Fact] = queue.Queue(MAX_WAITING)
        self._state = _RecorderState.RECORDING
        self._changing = threading.Lock()
        self._num_heard = 0
        self._writer = _Writer(self.folder, manifest, take_room, mode)
        try:
            if self.path.exists():
                raise SessionFileError(f"{self.path} exists already")
            self._writer.begin()
        except FileExistsError as error:
            raise SessionFileError(
                f"{self.folder} exists already: a recording goes on, or was cut off"
            ) from error
        except (OSError, ValueError) as error:
            raise SessionFileError(f"{self.path} cannot be written: {_reason(error)}") from error
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._writer.give_back()
            raise SessionFileError(f"{self.path} cannot be written: {error}") from error

    @property
    def is_recording(self) -> bool:
        """Whether what happens is still written."""
        return self._state is _RecorderState.RECORDING

    @property
    def num_chunks(self) -> int:
        """Chunks of the microphone that it was told of."""
        return self._num_heard

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for the disk that who can wait should: see `catch_up`."""
        return self._queue.qsize() > MAX_WAITING // 4

    def catch_up(self) -> None:
        """Wait until the disk has caught up: for audio that is played faster than it was spoken."""
        while self.is_behind and self.is_recording:
            time.sleep(0.005)

    # Told by the engine, on its thread

    def hears(self, chunk: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Write a chunk `[6400]` down in 16 bits, which are then what the model hears."""
        heard = chunk
        if not self.is_recording:
            return heard
        with self._giving_up():
            pcm = float_to_pcm16(chunk)
            heard = pcm16_to_float(pcm)
            self._arrivals.append(self.now())
            self._put(_Audio(MICROPHONE, pcm))
            self._num_heard += 1
            if self._num_heard == MAX_CHUNKS:
                self._give_up(f"a recording is at most {MAX_HOURS} hours long")
        return heard

    def decided(self, decision: TracedDecision) -> None:
        """Write a decision down."""
        with self._giving_up():
            if self.is_recording:
                told, (silence, speech) = decision.decision, decision.logits
                words = None if told.words is None else list(map(HeardRecord.of, told.words))
                record = DecisionRecord(
                    at=self.now(),
                    chunk=told.chunk,
                    arrived=self._arrivals.popleft(),
                    speak=told.speak,
                    token=decision.token,
                    cause=decision.cause,
                    logits=(round(silence, 5), round(speech, 5)),
                    probability=round(told.speak_probability, 6),
                    threshold=round(told.threshold, 6),
                    milliseconds=round(told.milliseconds, 3),
                    positions=told.positions,
                    words=words,
                )
                self._put(record)

    def said(self, token: TracedToken) -> None:
        """Write a token of a reply down."""
        with self._giving_up():
            record = TokenRecord(
                at=self.now(),
                turn=token.turn,
                token=token.token,
                cause=token.cause,
                text=token.text,
                emotion=token.emotion,
                status=token.status,
            )
            self._put(record)

    def settings_changed(
        self, settings: SessionSettings, sampling: SamplingConfig, max_reply_tokens: int
    ) -> None:
        """Write down what is drawn by from now on."""
        assert settings.system_prompt is not None, "a trace is told the prompt"
        with self._giving_up():
            changed = SettingsRecord(
                at=self.now(),
                system_prompt=settings.system_prompt,
                seed=settings.seed,
                drawing=Drawing.of(settings, sampling),
            )
            self._put(changed)

    def rolled(self, rolled: ContextRolled) -> None:
        """Write down that the context rolled."""
        with self._giving_up():
            self._put(
                RolledRecord(
                    at=self.now(),
                    positions_before=rolled.positions_before,
                    positions_after=rolled.positions_after,
                )
            )

    def failed(self, message: str) -> None:
        """Write down why the conversation could not go on."""
        with self._giving_up():
            self._put(FailedRecord(at=self.now(), message=message))

    # Told by the front end, on any thread

    def now(self) -> float:
        """Seconds since the recording began, for a note's `at`."""
        return round(self._clock() - self._began, 4)

    def note(self, note: SessionNote) -> None:
        """Write down what the engine does not know of."""
        self._put(note)

    def reply_audio(self, turn: int, pcm: bytes) -> None:
        """More of a spoken reply: 16-bit PCM at 24 kHz."""
        self._put(_Audio(reply_track(turn), pcm))

    def close(self) -> Path | None:
        """End the recording and pack it; waits until that is done. Closing twice is allowed.

        Close the session first: what comes later is left out.

        Returns:
            the file, with what was recorded until it had to end, if it had to; None where it
            could not be packed: then what was written is in the folder, if anything was.
        """
        with self._changing:
            is_recording = self.is_recording
            if is_recording:
                self._state = _RecorderState.CLOSED
        if is_recording:
            # Where the queue is full there is a writer that empties it.
            self._queue.put(_Close(self.now()))
        self._thread.join()
        return self.path if self.path.exists() else None

    def _put(self, fact: _Fact) -> None:
        if not self.is_recording:
            return
        try:
            self._queue.put_nowait(fact)
        except queue.Full:
            self._give_up("the disk is too slow")

    def _give_up(self, reason: str) -> None:
        """End the recording, unless it has ended."""
        with self._changing:
            if not self.is_recording:
                return
            self._state = _RecorderState.FAILED
        self._tell(f"the recording has ended, the conversation goes on: {reason}", self.path)
        # The writer is to find out; where it is full, it will.
        with suppress(queue.Full):
            self._queue.put_nowait(_Close(self.now()))

    def _tell(self, failure: str, place: Path) -> None:
        self.failure = failure
        self._notice(f"{failure}; what was recorded is in {place}")

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Let nothing that goes wrong with what is told reach the model, or other conversations."""
        try:
            yield
        except Exception as error:
            self._give_up(_reason(error))

    def _run(self) -> None:
        is_whole = False
        try:
            is_whole = self._write_all()
        except Exception as error:  # whatever it is, the client is told at once
            self.is_deleted = not self.folder.exists()
            reason = _reason(error)
            self._give_up(reason)
            if self._state is _RecorderState.CLOSED:
                self._tell(f"the recording ends early: {reason}", self.path)
            # The thread that closes it may be waiting for room.
            self._empty_queue()
        try:
            if is_whole:
                self._writer.pack(self.path)
            else:
                self._writer.pack_beginning(self.path)
        except Exception as error:  # as before
            self.is_deleted = self.is_deleted or (is_whole and not self.folder.exists())
            reason = _reason(error)
            if is_whole:
                self._tell(f"the recording could not be packed: {reason}", self.folder)
            else:
                logger.warning("what was recorded is not packed: %s", reason)
        finally:
            self._writer.let_go()

    def _write_all(self) -> bool:
        """Write until the end; whether it has come to that."""
        while not isinstance(fact := self._queue.get(), _Close):
            self._writer.write(fact)
            if self._queue.empty():
                self._writer.flush()
                if self._state is _RecorderState.FAILED:
                    return False
        if self._state is _RecorderState.FAILED:
            self._writer.flush()
            return False
        self._writer.end(fact.at)
        return True

    def _empty_queue(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()


def _reason(error: Exception) -> str:
    match error:
        case MemoryError():
            return "there is no memory left"
        case OSError() if error.strerror:
            return error.strerror
        case OSError() | ValueError() | RuntimeError() | SessionFileError():
            # ValueError: a number that cannot be written down.
            return str(error)
        case _:
            logger.exception("a recorder broke", exc_info=error)
            return "it broke"


class _Writer:
    """The folder of a recording; used by one thread."""

    def __init__(
        self, folder: Path, manifest: Manifest, take_room: TakeRoom, packed_mode: int
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._take_room = take_room
        self._packed_mode = packed_mode
        self._tracks: dict[str, BinaryIO] = {}
        self._track_names: dict[str, None] = {}
        """All that there are, in the order in which they began."""
        self._events: BinaryIO | None = None
        self._lock = FileLock(folder / LOCK, 0, _LOCK_MODE, thread_local=False)
        self._num_chunks = 0
        self._num_event_bytes = 0

    def begin(self) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be; FileExistsError where there is one.
        """
        self._folder.mkdir(_FOLDER_MODE, parents=True)
        try:
            self._lock.acquire()
            (self._folder / MANIFEST).write_text(self._manifest.model_dump_json(indent=1), "utf-8")
            self._events = (self._folder / EVENTS).open("xb")
            self._open_track(MICROPHONE)
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Nothing is recorded after all: nothing stays open, or behind."""
        self.close()
        self.let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def let_go(self) -> None:
        """From now on others may pack or remove the folder."""
        self._lock.release()

    def write(self, fact: _Fact) -> None:
        """Write a fact down; `flush` makes sure of it."""
        match fact:
            case _Audio(name, pcm):
                track = self._tracks.get(name) or self._open_track(name)
                self._take_room(len(pcm))
                track.write(pcm)
                self._num_chunks += name == MICROPHONE
            case _Close():
                raise AssertionError("nothing is written after the end")
            case _:
                self._write_record(fact)

    def end(self, at: float) -> None:
        """Write down that the recording is complete."""
        self._write_record(EndRecord(at=at, chunks=self._num_chunks))
        self.flush()

    def flush(self) -> None:
        """Hand everything to the system, so that it outlives this process."""
        if not self._folder.exists():
            raise FileNotFoundError("the recording was deleted")
        # The sound first: a decision without its sound cannot be repeated.
        for track in self._tracks.values():
            track.flush()
        assert self._events is not None, "begin comes before flush"
        self._events.flush()

    def close(self) -> None:
        """Let go of the files."""
        files = [*self._tracks.values(), *([self._events] if self._events else [])]
        for file in files:
            # Of what could not be written the recorder has told; closing tries it once more.
            with suppress(OSError):
                file.close()

    def pack(self, path: Path) -> None:
        """Make one file of the folder, and remove the folder once the file is there."""
        self.close()
        with (
            self._replacing(path) as packed,
            packed.open("wb") as output,
            closing(self._written_tracks()) as tracks,
        ):
            pack(output, self._manifest, self._folder / EVENTS, tracks, self._folder)

    def pack_beginning(self, path: Path) -> None:
        """Make one file of what can be read; where nothing was heard, nothing is left behind."""
        self.close()
        try:
            file = SessionFile(self._folder)
        except SessionFileError:
            self.give_back()
            raise
        with file:
            if not file.num_chunks:
                self.give_back()
                return
            with self._replacing(path) as packed:
                pack_copy(file, packed)

    def _written_tracks(self) -> Generator[Track]:
        """To be closed, for where not all is packed: each has a file open."""
        for name in self._track_names:
            with closing(_pcm_blocks(self._folder / f"{name}.pcm")) as blocks:
                yield Track(name, blocks)

    @contextmanager
    def _replacing(self, path: Path) -> Iterator[Path]:
        """The file that is written in the block takes the place of the folder."""
        packed = self._folder / "packed"
        try:
            packed.touch(self._packed_mode)
            yield packed
            os.replace(packed, path)
        except BaseException:
            # Its bytes may be those that the disk lacks.
            packed.unlink(missing_ok=True)
            raise
        self.let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open_track(self, name: str) -> BinaryIO:
        """Its file is open while more of it comes; those of earlier replies are not any more."""
        if name not in self._track_names and len(self._track_names) > MAX_REPLY_TRACKS:
            raise ValueError("more replies were spoken than a recording may hold")
        path = self._folder / f"{name}.pcm"
        path.parent.mkdir(exist_ok=True)
        self._track_names[name] = None
        if len(self._tracks) > MAX_OPEN_REPLIES:
            earliest = next(other for other in self._tracks if other != MICROPHONE)
            self._tracks.pop(earliest).close()
        self._tracks[name] = path.open("ab")
        return self._tracks[name]

    def _write_record(self, record: Record) -> None:
        assert self._events is not None, "begin comes before write"
        line = record.model_dump_json(exclude_none=True).encode() + b"\n"
        self._num_event_bytes += len(line)
        if self._num_event_bytes > MAX_EVENTS_BYTES:
            raise ValueError("more has happened than a recording may hold")
        self._take_room(len(line))
        self._events.write(line)


def _pcm_blocks(path: Path) -> Generator[npt.NDArray[np.int16]]:
    with path.open("rb") as file:
        while block := file.read(CHUNK_SAMPLES * 2 * 16):
            yield np.frombuffer(block, "<i2")
