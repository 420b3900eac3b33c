"""The engine: one thread owns the model, any number of async callers talk to it."""

import asyncio
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from backend.audio import AudioBlock, Intake, Samples
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ, EngineConfig, SessionSettings
from backend.counts import EngineCounts
from backend.engine.capacity import Capacity, measure_capacity
from backend.engine.core import EngineCore, MakeRunner, SessionEvent
from backend.engine.session import Past, Session
from backend.engine.static_runner import runner_for
from backend.engine.watchdog import watch, where
from backend.errors import (
    AudioInputError,
    EngineFailedError,
    SessionClosedError,
    SessionFailedError,
)
from backend.events import Decision, Event, SessionEnded, SessionFailed, TurnDone
from backend.model.checkpoint import Checkpoint
from backend.model.device import own_stream
from backend.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Command = Callable[[], None]
Answer = TypeVar("Answer")

_Tell = Callable[[Event], None]
_Letter = tuple[_Tell, Event]

RECALLED_AT_ONCE = 4
"""Chunks of a past that are computed between two steps of those who converse."""
PATIENCE = 5
"""A step may take so many times as long as all of those that warm the engine up."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """Whom to tell what happens in a session."""

    tell: _Tell
    loop: asyncio.AbstractEventLoop | None = None
    """In which it wants to be told; None for at once, on the engine's thread."""


class EngineSession:
    """A caller's end of one conversation. Use it from the event loop that opened it."""

    def __init__(self, engine: "Engine", session: Session, max_pending_chunks: int) -> None:
        self._engine = engine
        self._session = session
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._room = asyncio.Semaphore(max_pending_chunks)
        self._num_fed = 0
        self._is_over = False
        """Ended, failed or closed: nothing more can be fed."""
        self._is_closed = False

    @property
    def session_id(self) -> int:
        """Unique within the engine."""
        return self._session.session_id

    async def feed(self, chunk: npt.NDArray[np.float32]) -> int:
        """Hand over the next chunk; waits while too many decisions are still to come or be read.

        Args:
            chunk: float32 `[6400]`, 0.4 s at 16 kHz in [-1, 1]. It must not change afterwards.

        Returns:
            the chunk's number in this session, from 0.

        Raises:
            AudioInputError: another shape or type, or a value that is not finite.
            SessionClosedError: the session was closed, has failed or has ended.
        """
        if chunk.shape != (CHUNK_SAMPLES,) or chunk.dtype != np.float32:
            raise AudioInputError(
                f"a chunk is {CHUNK_SAMPLES} float32 samples, not {chunk.dtype} {chunk.shape}"
            )
        if not np.isfinite(chunk).all():
            raise AudioInputError("the audio holds values that are not finite numbers")
        self._require_going_on()
        await self._room.acquire()
        if self._is_over:
            # Whoever else waits for room is to find out too.
            self._room.release()
        self._require_going_on()
        self._engine.command(lambda: self._engine.core.hear(self._session, chunk))
        self._num_fed += 1
        return self._num_fed - 1

    def finish(self) -> None:
        """Say that no more chunks come: `events` ends when everything is heard and said."""
        self._require_going_on()
        self._engine.command(lambda: self._engine.core.finish(self._session))

    def interrupt(self, turn: int | None = None) -> None:
        """Stop the reply in progress, if there is one, and if it is `turn` where that is given.

        What is read of `events` lies behind: meant is the reply that a caller has read of, and by
        now the model may be at the next one.
        """
        self._require_going_on()
        self._engine.command(lambda: self._engine.core.interrupt(self._session, turn))

    def request_reply(self, since_chunk: int | None = None) -> None:
        """Have the next chunk that is fed answered, whatever the model decides.

        Args:
            since_chunk: number of a chunk that was fed; a reply that the model starts or has
                started itself on it or on one after it will do. None asks for the next chunk's.
        """
        self._require_going_on()
        self._engine.command(lambda: self._engine.core.request_reply(self._session, since_chunk))

    async def change_settings(self, settings: SessionSettings) -> None:
        """Follow `settings` from the next step on.

        Raises:
            SettingsError: the system prompt does not fit; nothing has changed.
            SessionClosedError: the session was closed, has failed or has ended.
        """
        self._require_going_on()
        changing = self._engine.submit(
            lambda: self._engine.core.change_settings(self._session, settings)
        )
        await asyncio.wrap_future(changing)

    async def events(self) -> AsyncIterator[Event]:
        """What happens, as it happens, until the session ends, fails or is closed."""
        while True:
            event = await self._events.get()
            if isinstance(event, SessionEnded):
                return
            if isinstance(event, Decision):
                # Here and not where it arrives, so that a slow reader slows down the feeder.
                self._room.release()
            yield event
            if isinstance(event, SessionFailed):
                return

    async def follow(
        self, chunks: AsyncIterable[Samples] | Iterable[Samples]
    ) -> AsyncGenerator[Event, None]:
        """Feed audio that is there already and yield what happens, until all is heard and said.

        Chunks `[6400]` are taken as there is room for them, ahead of what is yielded. Of a session
        that fails, `SessionFailed` is the last event. The session stays open.

        Raises:
            What taking a chunk raises, once what was fed before has been yielded.
        """
        feeding = asyncio.create_task(self._feed_all(chunks))
        try:
            async for event in self.events():
                yield event
                if isinstance(event, SessionFailed):
                    return
            await feeding
        finally:
            feeding.cancel()

    async def _feed_all(self, chunks: AsyncIterable[Samples] | Iterable[Samples]) -> None:
        # A session that is over has failed, which its events tell.
        with suppress(SessionClosedError):
            try:
                if isinstance(chunks, AsyncIterable):
                    async for chunk in chunks:
                        await self.feed(chunk)
                else:
                    for chunk in chunks:
                        await self.feed(chunk)
            finally:
                self.finish()

    async def close(self) -> None:
        """End the conversation and free its slot at once. Closing twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        self.receive(SessionEnded())
        await self._engine.close_session(self._session)

    def receive(self, event: Event) -> None:
        """Called in the event loop that opened it."""
        if isinstance(event, SessionEnded | SessionFailed):
            self._is_over = True
            # A feeder that waits for room wakes up and finds the session over.
            self._room.release()
        self._events.put_nowait(event)

    def _require_going_on(self) -> None:
        if self._is_over:
            raise SessionClosedError("this conversation is over")


class Engine:
    """Serves conversations from one thread, which runs inside the `with` block.

    Example:
        with Engine(load("embedded")) as engine:
            for event in engine.stream(stream_audio("question.wav")):
                print(event)

    `stream` and `stream_async` hear a recording, or blocks as they come. `open_session` gives a
    conversation in the caller's hands: to stop or ask for replies, or to change its settings.

    Args:
        checkpoint: the model.
        config: number of slots and size of a context; None takes the defaults.
        runner: makes what runs the model.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig | None = None,
        runner: MakeRunner = runner_for,
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config or EngineConfig()
        self.failed: Future[str] = Future()
        """Done once no conversation can go on any more, or begin: why, in a few words."""
        self.capacity = Capacity(self.config.num_slots)
        """What the machine carries, as far as `warm_up` has measured it."""
        self.core = EngineCore(checkpoint, self.config, runner=runner)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._callers: dict[int, _Caller] = {}
        """Whom to tell what happens in a session, by its id."""
        self._is_running = False
        self._asked: set[Future[Any]] = set()
        """What callers wait for."""
        self._work: object | None = None
        """Another object for each piece of the thread's work; None while it waits for some."""
        self._ending = threading.Lock()
        self._refusal: SessionClosedError | None = None
        """Why nothing can be asked any more; None while it can."""
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the thread that owns the model.

        Raises:
            SessionClosedError: it was started, or closed, before: an engine runs once.
        """
        if self._refusal is not None or self._thread.ident is not None:
            raise SessionClosedError("an engine runs only once: make another one")
        self._is_running = True
        self._thread.start()

    def warm_up(self, *, measures_sessions: bool = False) -> None:
        """Take the first steps, which are slow on a GPU, and measure, before anybody comes.

        From then on the engine is watched: a step that takes far longer fails it.

        Args:
            measures_sessions: whether `capacity` then says how many conversations are heard in
                time, and not just how many slots there are; takes seconds.

        Raises:
            SettingsError: the device has no room for what a step needs.
            SessionLimitError: every slot is taken.
            SessionClosedError: the engine was stopped.
        """
        began = time.monotonic()
        self.submit(self.core.warm_up).result()
        took_seconds = time.monotonic() - began
        num_slots = self.config.num_slots
        measuring = partial(measure_capacity, self.core, num_slots, is_shared=measures_sessions)
        self.capacity = self.submit(measuring).result()
        # What was measured nobody came for.
        self.core.counts = EngineCounts()
        patience_seconds = max(self.config.least_patience_seconds, PATIENCE * took_seconds)

        def on_hang() -> None:
            logger.critical("the engine hangs:\n%s", where(self._thread))
            self.fail(f"a step did not come back within {patience_seconds:.0f} s")

        watching = (self._at_work, patience_seconds, self._has_ended, on_hang)
        threading.Thread(target=watch, args=watching, name="watchdog", daemon=True).start()

    def _at_work(self) -> object | None:
        return self._work

    def fail(self, reason: str) -> None:
        """End every conversation, and refuse all that is asked from now on.

        For what no conversation survives. May be called on any thread, and more than once; nothing
        waits for the engine's own thread, which may hang.

        Args:
            reason: in a few words, for users and the log.
        """
        message = f"the engine has failed, and every conversation with it: {reason}"
        if self._end(EngineFailedError(message)):
            logger.critical("%s", message)
            self.failed.set_result(reason)

    def close(self) -> None:
        """Stop the thread; conversations that are open fail with a message.

        Closing twice is allowed, and so is closing an engine that was never started.
        """
        if self._thread.ident is None:
            self._end(SessionClosedError("the engine was stopped"))
            return
        self.command(self._stop)
        self._has_ended.wait()
        if not self.failed.done():
            self._thread.join()

    def change_model(self, checkpoint: Checkpoint, message: str) -> None:
        """Go on with another checkpoint of the same kind; waits until it is in use.

        Whoever converses is told `message`, and may begin anew.

        Raises:
            SettingsError: its context is shorter, or the device has no room for it.
            SessionClosedError: the engine was stopped.
        """
        runner = self.core.runner_of(checkpoint)

        def change() -> None:
            self._deliver(self.core.change_model(checkpoint, runner, message))
            self.checkpoint = checkpoint

        self.submit(change).result()

    @property
    def counts(self) -> EngineCounts:
        """What has been done since `warm_up`."""
        return self.core.counts

    @property
    def max_positions(self) -> int:
        """Positions of one conversation's context."""
        return self.core.max_positions

    @property
    def num_sessions(self) -> int:
        """Conversations that are open."""
        return len(self._callers)

    def stream(
        self,
        audio: Iterable[AudioBlock],
        *,
        rate_hz: int = SAMPLE_RATE_HZ,
        settings: SessionSettings | None = None,
    ) -> Generator[Event, None, None]:
        """Hear audio in a conversation of its own and yield what happens, as it happens.

        A block is taken when everything that the ones before led to has been yielded, a reply to
        its end; it then is heard at once, so audio that comes as it is spoken is heard as it is
        spoken. What does not fill 0.4 s at the end is padded, and 1.2 s of silence follow, in which
        the last words can be answered. The conversation ends when the iterator does or is closed.

        Args:
            audio: blocks of any length: `[samples]` or `[samples, channels]`, which are averaged;
                floats in [-1, 1] or int16. `stream_audio(path)` makes them of a file.
            rate_hz: their sample rate, 1000 to 768000 Hz; the model's own is 16000.
            settings: of the conversation; None takes the checkpoint's.

        Yields:
            a `Decision` for every 0.4 s; where it speaks, `TurnStarted`, `TextDelta`s and
            `TurnDone`; `ContextRolled` where the oldest part of a long conversation was let go.

        Raises:
            AudioInputError: a block, or a rate, that is no such audio.
            SessionLimitError: as many conversations are open as the engine has slots.
            SettingsError: the system prompt does not fit.
            SessionFailedError: the model failed on this conversation, or the engine was stopped.
            SessionClosedError: the engine was not started, or was stopped before.
        """
        chunks = Intake(rate_hz).chunks(audio)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._require_started()
        session = self.submit(lambda: self.core.open(settings or SessionSettings())).result()
        self._callers[session.session_id] = _Caller(events.put)
        try:
            for chunk in chunks:
                self.submit(partial(self.core.hear, session, chunk)).result()
                is_listening = False
                while not is_listening:
                    event = events.get()
                    is_listening = _ends_chunk(event)
                    yield event
        finally:
            del self._callers[session.session_id]
            self.command(lambda: self.core.close(session))

    async def stream_async(
        self,
        audio: AsyncIterable[AudioBlock] | Iterable[AudioBlock],
        *,
        rate_hz: int = SAMPLE_RATE_HZ,
        settings: SessionSettings | None = None,
    ) -> AsyncGenerator[Event, None]:
        """As `stream`, for an event loop; blocks may be waited for, and events are.

        Streams that run side by side share the model's steps. Close one that is not read to its
        end (`contextlib.aclosing`), so that its slot is free at once.
        """
        chunks = Intake(rate_hz).chunks_async(audio)
        session = await self.open_session(settings)
        events = session.events()
        try:
            async for chunk in chunks:
                await session.feed(chunk)
                async for event in events:
                    is_listening = _ends_chunk(event)
                    yield event
                    if is_listening:
                        break
        finally:
            await session.close()

    async def open_session(
        self,
        settings: SessionSettings | None = None,
        trace: Trace | None = None,
        past: Past | None = None,
    ) -> EngineSession:
        """Start a conversation; `trace` is told, on the engine's thread, of all that happens.

        With a `past` it goes on with one that another engine had.

        Raises:
            SessionLimitError: every slot is taken.
            SettingsError: the system prompt does not fit.
            SessionClosedError: the engine was not started, or was stopped.
        """
        self._require_started()
        chosen = settings or SessionSettings()
        opening = self.submit(lambda: self.core.open(chosen, trace))
        try:
            session = await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(self._discard)
            raise
        caller = EngineSession(self, session, self.config.max_pending_chunks)
        self._callers[session.session_id] = _Caller(caller.receive, caller.loop)
        if self._refusal is not None:
            # Those were told that were known of, and this one came too late for that.
            caller.receive(SessionFailed(str(self._refusal), of_engine=True))
        if past is not None:
            try:
                await self._take_up(session, past)
            except BaseException:
                await caller.close()
                raise
        return caller

    async def _take_up(self, session: Session, past: Past) -> None:
        """A few chunks at a time: others converse meanwhile."""
        features: list[Tensor] = []
        for start in range(0, len(past.chunks), RECALLED_AT_ONCE):
            some = past.chunks[start : start + RECALLED_AT_ONCE]
            recalling = asyncio.wrap_future(self.submit(partial(self.core.recall, session, some)))
            features.extend(await recalling)
        taking_up = self.submit(lambda: self.core.take_up(session, past, features))
        await asyncio.wrap_future(taking_up)

    async def close_session(self, session: Session) -> None:
        """Free the session's slot; for `EngineSession.close`."""
        del self._callers[session.session_id]
        closing = self.submit(lambda: self.core.close(session))
        # An engine that was stopped has no slot to free.
        with suppress(SessionClosedError):
            await asyncio.shield(asyncio.wrap_future(closing))

    def command(self, command: Callable[[], None]) -> None:
        """Have the engine's thread run `command` between two steps."""
        self.submit(command).add_done_callback(_log_failure)

    def submit(self, question: Callable[[], Answer]) -> "Future[Answer]":
        """Have the engine's thread answer `question`; its error becomes the future's."""
        future: Future[Answer] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(question())
            except InvalidStateError:
                raise  # it was refused meanwhile
            except Exception as error:  # handed to whoever waits for the future
                future.set_exception(error)

        with self._ending:
            if self._refusal is None:
                self._asked.add(future)
                future.add_done_callback(self._asked.discard)
                self._commands.put(answer)
                return future
        future.set_exception(self._refused())
        return future

    def _require_started(self) -> None:
        self._require_running()
        if self._thread.ident is None:
            raise SessionClosedError(
                "the engine does not run yet: use it as `with Engine(...) as engine:`"
            )

    def _require_running(self) -> None:
        if self._refusal is not None:
            raise self._refused()

    def _refused(self) -> SessionClosedError:
        """One for each that is refused, as it takes down where it is raised."""
        assert self._refusal is not None, "the engine goes on"
        return type(self._refusal)(str(self._refusal))

    def _discard(self, opening: "Future[Session]") -> None:
        """Close a session whose opener has gone before it got it."""
        if not opening.cancelled() and opening.exception() is None:
            session = opening.result()
            self.command(lambda: self.core.close(session))

    def _run(self) -> None:
        try:
            self.core.limit_threads()
            with own_stream(self.checkpoint.device):
                while self._is_running:
                    self._obey_commands()
                    self._work = object()
                    self._step()
        except BaseException as error:  # whatever it is, those who wait for this thread are told
            if not self.failed.done():
                logger.critical("the engine's thread broke", exc_info=True)
            self.fail(f"its thread broke: {type(error).__name__}")
        else:
            self._end(SessionClosedError("the engine was stopped"))

    def _end(self, refusal: SessionClosedError) -> bool:
        """Tell all who wait, and refuse who comes later; False where that was done before."""
        with self._ending:
            if self._refusal is not None:
                return False
            self._refusal = refusal
            self._is_running = False
        try:
            self._deliver(self.core.fail_all(str(refusal)))
        finally:
            for future in list(self._asked):
                # It may be answered at this very moment.
                with suppress(InvalidStateError):
                    future.set_exception(self._refused())
            self._has_ended.set()
        return True

    def _obey_commands(self) -> None:
        """Run the commands that wait; without work for the model, wait for one."""
        if not self.core.has_work():
            self._work = None
            command = self._commands.get()
            self._work = object()
            command()
        while self._is_running:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _step(self) -> None:
        try:
            self._deliver(self.core.step())
        except Exception:
            # Whatever breaks a step ends the conversations that were in it and no other, unless
            # the device is of no use any more: a GPU does nothing after some faults.
            logger.exception("an engine step failed")
            if self.core.is_usable():
                self._deliver(self.core.fail_active())
            else:
                self.fail("the device that runs the model does not compute any more")

    def _deliver(self, events: Iterable[SessionEvent]) -> None:
        """Tell callers what happened, those of one event loop in one go: each wakes it up."""
        letters: dict[asyncio.AbstractEventLoop, list[_Letter]] = defaultdict(list)
        try:
            for session, event in events:
                self.counts.note(event)
                caller = self._callers.get(session.session_id)
                if caller is None:
                    continue
                if caller.loop is None:
                    caller.tell(event)
                else:
                    letters[caller.loop].append((caller.tell, event))
        finally:
            for loop, of_loop in letters.items():
                # A loop may be closed at any time: who ran it is not there to be told.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_hand_over, of_loop)

    def _stop(self) -> None:
        self._is_running = False


def _hand_over(letters: Sequence[_Letter]) -> None:
    for tell, event in letters:
        tell(event)


def _ends_chunk(event: Event) -> bool:
    """Whether `event` is the last that follows from a chunk: silence, or a reply's end.

    Raises:
        SessionFailedError: it is the conversation's last.
    """
    match event:
        case Decision():
            return not event.speak
        case SessionFailed():
            raise SessionFailedError(event.message)
        case _:
            return isinstance(event, TurnDone)


def _log_failure(command: "Future[None]") -> None:
    error = command.exception()
    if error is not None and not isinstance(error, SessionClosedError):
        logger.error("a command to the engine failed", exc_info=error)
