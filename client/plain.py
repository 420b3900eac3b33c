"""The terminal without a terminal: a line for everything that happens."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from client.conversation import HeardEntry, Turn, TypedEntry
from client.live import Live, State
from client.words import News, Words, clock_time

LOOK_SECONDS = 0.05
QUIT = ("q", "quit", "exit")
NOT_OPEN = (State.IDLE, State.CONNECTING, State.QUEUED, State.RECONNECTING)


class PlainFrontEnd:
    """Prints replies once they are over, and sends the lines that it reads.

    Args:
        live: the conversation.
        words: of the user's language.
        lines: what is typed or piped in.
        output: where to print.
        ends_with_input: whether the end of `lines` ends the conversation, once all is answered.
    """

    def __init__(
        self, live: Live, words: Words, lines: TextIO, output: TextIO, *, ends_with_input: bool
    ) -> None:
        self._live = live
        self._words = words
        self._lines = lines
        self._output = output
        self._ends_with_input = ends_with_input
        self._is_input_over = False
        self._news = News(live)
        self._told: set[object] = set()

    async def show(self) -> None:
        """Show and read until the user ends the conversation."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            # Raised by a closed loop: the conversation is over, and what is typed is lost.
            with suppress(RuntimeError):
                for line in self._lines:
                    loop.call_soon_threadsafe(self._typed, line)
                loop.call_soon_threadsafe(self._input_over)

        # It may wait for a line for ever, and then goes with the program.
        threading.Thread(target=read, daemon=True).start()
        was_open = False
        while True:
            is_open = self._live.state not in NOT_OPEN
            if is_open and not was_open:
                self._print(self._welcome())
            was_open = is_open
            self._tell_news()
            if self._is_input_over and self._ends_with_input and self._live.session.is_quiet:
                self._live.stop()
                self._is_input_over = False
            await asyncio.sleep(LOOK_SECONDS)

    def finish(self) -> None:
        """What is still to be said."""
        self._tell_news()

    def _welcome(self) -> str:
        live, words = self._live, self._words
        welcome = words(
            "talk.welcome", state=words.state(State.LISTENING), server=live.address.base
        )
        if live.input_name is None or live.output_name is None:
            return welcome
        devices = words("talk.devices", microphone=live.input_name, loudspeaker=live.output_name)
        return f"{welcome} {devices}"

    def _typed(self, line: str) -> None:
        if line.strip().lower() in QUIT:
            self._live.stop()
        else:
            self._live.send_text(line)

    def _input_over(self) -> None:
        self._is_input_over = True

    def _tell_news(self) -> None:
        news = dict(self._news_lines())
        for thing, line in news.items():
            if thing not in self._told:
                self._print(line)
        self._told = set(news)
        for entry in self._news.entries():
            self._print(entry_line(entry, self._words))

    def _news_lines(self) -> Iterator[tuple[object, str]]:
        """Each with what it is told for, once: the seconds that are left are not counted aloud."""
        live, words = self._live, self._words
        if live.notice is not None:
            yield live.session.ends_at or live.notice, words.of(live.notice)
        for problem in live.problems:
            yield problem, words.of(problem)
        if (place := live.session.queue_place) is not None:
            yield place, words.queue(place)

    def _print(self, line: str) -> None:
        print(line, file=self._output, flush=True)


def entry_line(entry: Turn | TypedEntry | HeardEntry, words: Words) -> str:
    """What was replied, typed or heard, on one line."""
    match entry:
        case TypedEntry():
            return f"{clock_time(entry.seconds)} [{words('turn.typed')}] {entry.text}"
        case HeardEntry():
            return f"{clock_time(entry.seconds)} [{words('turn.heard')}] {entry.whole_words}"
        case Turn():
            return turn_line(entry, words)


def turn_line(turn: Turn, words: Words) -> str:
    """A reply on one line."""
    emotion = [words.emotion(turn.emotion)] if turn.emotion is not None else []
    beside = ", ".join([*emotion, *words.notes(turn)])
    said = f" [{beside}] {turn.text}" if beside else f" {turn.text}"
    return f"{clock_time(turn.seconds)}{said}  ({words.since(turn)}: {words.times(turn)})"
