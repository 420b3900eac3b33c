"""The terminal without a terminal: a line for everything that happens."""

import asyncio
import threading
from contextlib import suppress
from typing import TextIO

from client.conversation import Turn, TypedEntry
from client.live import Live, State
from client.news import News
from client.words import STATES, clock_time, milliseconds, notes, since, steps

LOOK_SECONDS = 0.05
QUIT = ("q", "quit", "exit")


class PlainFrontEnd:
    """Prints replies once they are over, and sends the lines that it reads.

    Args:
        live: the conversation.
        lines: what is typed or piped in.
        output: where to print.
        ends_with_input: whether the end of `lines` ends the conversation, once all is answered.
    """

    def __init__(self, live: Live, lines: TextIO, output: TextIO, *, ends_with_input: bool) -> None:
        self._live = live
        self._lines = lines
        self._output = output
        self._ends_with_input = ends_with_input
        self._is_input_over = False
        self._news = News(live)
        self._told: dict[str, str | None] = {"notice": None, "problem": None, "queue": None}

    async def show(self) -> None:
        """Show and read until the user ends the conversation."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            # Raised by a closed loop: the conversation is over, and nobody hears what is typed.
            with suppress(RuntimeError):
                for line in self._lines:
                    loop.call_soon_threadsafe(self._typed, line)
                loop.call_soon_threadsafe(self._input_over)

        # It may wait for a line for ever, and then goes with the program.
        threading.Thread(target=read, daemon=True).start()
        was_open = False
        while True:
            is_open = self._live.state in (State.LISTENING, State.SPEAKING)
            if is_open and not was_open:
                self._print(self._welcome())
            was_open = is_open
            self._tell_news()
            if self._is_input_over and self._ends_with_input and self._live.is_quiet:
                self._live.stop()
                self._is_input_over = False
            await asyncio.sleep(LOOK_SECONDS)

    def finish(self) -> None:
        """What is still to be said."""
        self._tell_news()

    def _welcome(self) -> str:
        devices = (
            f" Microphone: {self._live.input_name}. Loudspeaker: {self._live.output_name}."
            if self._live.input_name
            else ""
        )
        return (
            f"{STATES[State.LISTENING]}: {self._live.address.base}.{devices} Type a line to send "
            "it; q or Ctrl+C ends."
        )

    def _typed(self, line: str) -> None:
        if line.strip().lower() in QUIT:
            self._live.stop()
        else:
            self._live.send_text(line)

    def _input_over(self) -> None:
        self._is_input_over = True

    def _tell_news(self) -> None:
        place = self._live.queue_place
        queue = f"Every place is taken. You are number {place.position} in line." if place else None
        news = {"notice": self._live.notice, "problem": self._live.problem, "queue": queue}
        for kind, words in news.items():
            if words is not None and words != self._told[kind]:
                self._print(words)
        self._told = news
        for entry in self._news.entries():
            self._print(_typed_line(entry) if isinstance(entry, TypedEntry) else turn_line(entry))

    def _print(self, line: str) -> None:
        print(line, file=self._output, flush=True)


def turn_line(turn: Turn) -> str:
    """A reply on one line."""
    times = ", ".join(f"{words} {milliseconds(time)}" for words, time in steps(turn))
    if turn.silent_in_ms is not None:
        times += f", silent in {milliseconds(turn.silent_in_ms)}"
    beside = f" [{', '.join(notes(turn))}]" if notes(turn) else ""
    return f"{clock_time(turn.seconds)}{beside} {turn.text}  ({since(turn)}: {times})"


def _typed_line(entry: TypedEntry) -> str:
    return f"{clock_time(entry.seconds)} [you typed] {entry.text}"
