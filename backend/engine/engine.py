"""The engine: one thread owns the model, any number of async callers talk to it."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from backend.config import CHUNK_SAMPLES, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.engine.session import Session
from backend.engine.trace import Trace
from backend.errors import AudioInputError, SessionClosedError
from backend.events import Decision, Event, SessionEnded, SessionFailed
from backend.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Command = Callable[[], None]
Answer = TypeVar("Answer")


class EngineSession:
    """A caller's end of one conversation. Use it from the event loop that opened it."""

    def __init__(self, engine: "Engine", session: Session, max_pending_chunks: int) -> None:
        self._engine = engine
        self._session = session
        self._loop = asyncio.get_running_loop()
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

    def interrupt(self) -> None:
        """Stop the reply in progress, if there is one."""
        self._require_going_on()
        self._engine.command(lambda: self._engine.core.interrupt(self._session))

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

    async def close(self) -> None:
        """End the conversation and free its slot at once. Closing twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._receive(SessionEnded())
        await self._engine.close_session(self._session)

    def deliver(self, event: Event) -> None:
        """Called by the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, event)

    def _receive(self, event: Event) -> None:
        if isinstance(event, SessionEnded | SessionFailed):
            self._is_over = True
            # A feeder that waits for room wakes up and finds the session over.
            self._room.release()
        self._events.put_nowait(event)

    def _require_going_on(self) -> None:
        if self._is_over:
            raise SessionClosedError("this conversation is over")


class Engine:
    """Serves conversations from one thread.

    Example:
        with Engine(load_checkpoint("embedded")) as engine:
            session = await engine.open_session()
            await session.feed(chunk)
            session.finish()
            async for event in session.events():
                print(event)
            await session.close()
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig | None = None) -> None:
        self.checkpoint = checkpoint
        self.config = config or EngineConfig()
        self.core = EngineCore(checkpoint, self.config)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._callers: dict[int, EngineSession] = {}
        self._is_running = False
        self._has_stopped = False
        self._stopping = threading.Lock()
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
        """Start the thread that owns the model."""
        self._is_running = True
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; conversations that are open fail with a message."""
        self.command(self._stop)
        self._thread.join()

    @property
    def max_positions(self) -> int:
        """Positions of one conversation's context."""
        return self.core.max_positions

    @property
    def num_sessions(self) -> int:
        """Conversations that are open."""
        return len(self._callers)

    async def open_session(
        self, settings: SessionSettings | None = None, trace: Trace | None = None
    ) -> EngineSession:
        """Start a conversation; `trace` is told, on the engine's thread, of all that happens.

        Raises:
            SessionLimitError: every slot is taken.
            SettingsError: the system prompt does not fit.
            SessionClosedError: the engine was stopped.
        """
        chosen = settings or SessionSettings()
        opening = self.submit(lambda: self.core.open(chosen, trace))
        try:
            session = await asyncio.shield(asyncio.wrap_future(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(self._discard)
            raise
        caller = EngineSession(self, session, self.config.max_pending_chunks)
        self._callers[session.session_id] = caller
        return caller

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
                self._require_running()
                future.set_result(question())
            except Exception as error:  # handed to whoever waits for the future
                future.set_exception(error)

        with self._stopping:
            if not self._has_stopped:
                self._commands.put(answer)
                return future
        answer()
        return future

    def _require_running(self) -> None:
        if self._has_stopped:
            raise SessionClosedError("the engine was stopped")

    def _discard(self, opening: "Future[Session]") -> None:
        """Close a session whose opener has gone before it got it."""
        if not opening.cancelled() and opening.exception() is None:
            session = opening.result()
            self.command(lambda: self.core.close(session))

    def _run(self) -> None:
        self.core.limit_threads()
        while self._is_running:
            self._obey_commands()
            self._step()
        with self._stopping:
            self._has_stopped = True
        # What was asked too late is refused, so that nobody waits for ever.
        self._obey_waiting_commands()
        for session in self.core.sessions:
            self._deliver(session, SessionFailed("the engine was stopped"))

    def _obey_commands(self) -> None:
        """Run the commands that wait; without work for the model, wait for one."""
        if not self.core.has_work():
            self._commands.get()()
        self._obey_waiting_commands()

    def _obey_waiting_commands(self) -> None:
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _step(self) -> None:
        try:
            for session, event in self.core.step():
                self._deliver(session, event)
        except Exception:
            # Whatever breaks a step ends the conversations that were in it and no other.
            logger.exception("an engine step failed")
            for session, event in self.core.fail_active():
                self._deliver(session, event)

    def _deliver(self, session: Session, event: Event) -> None:
        if caller := self._callers.get(session.session_id):
            caller.deliver(event)

    def _stop(self) -> None:
        self._is_running = False


def _log_failure(command: "Future[None]") -> None:
    error = command.exception()
    if error is not None and not isinstance(error, SessionClosedError):
        logger.error("a command to the engine failed", exc_info=error)
