"""A conversation on a thread of its own, for front ends that have no event loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from client.address import ServerAddress
from client.live import Live, LiveOptions
from client.messages import ClientError, Message

Answer = TypeVar("Answer")

LOOK_SECONDS = 0.2
END_SECONDS = 5.0


class BackgroundConversation:
    """Begins at once; its methods may be called from any thread."""

    def __init__(self, address: ServerAddress, options: LiveOptions) -> None:
        self._live = Live(address, options)
        self._loop = asyncio.new_event_loop()
        self._ended: Message | None = None
        self._thread = threading.Thread(target=self._run, name="conversation", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, by itself or by `close`."""
        return self._thread.is_alive()

    @property
    def ended_because(self) -> Message | None:
        """Why it ended by itself."""
        return self._ended

    def look(self, question: Callable[[Live], Answer]) -> Answer:
        """What `question` makes of the conversation, which stands still meanwhile."""
        answer: Future[Answer] = Future()

        def ask() -> None:
            try:
                answer.set_result(question(self._live))
            except Exception as error:
                answer.set_exception(error)  # for the thread that asked

        # The loop may be closed at any moment, and then answers nothing more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(ask)
        while self.is_running:
            with suppress(TimeoutError):
                return answer.result(timeout=LOOK_SECONDS)
        return question(self._live)

    def do(self, action: Callable[[Live], None]) -> None:
        """Have something done, soon."""
        with suppress(RuntimeError):  # it has just ended
            self._loop.call_soon_threadsafe(action, self._live)

    def close(self) -> None:
        """End it, and let the sound card go."""
        self.do(Live.stop)
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live.run())
        except ClientError as error:
            self._ended = error.message
