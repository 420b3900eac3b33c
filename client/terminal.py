"""The terminal client's display: state, reply and strip at the bottom, what was said above.

A line of typing is read below them: keys one by one, without the terminal's own echo.
"""

import asyncio
import codecs
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live as Display
from rich.style import Style
from rich.text import Text

from client.audio_format import CHUNK_SECONDS, FRAME_SECONDS
from client.conversation import Conversation, Decision, HeardEntry, Turn, TypedEntry
from client.live import Live, State
from client.messages import PAGE_FOLDER
from client.words import FACES, News, Words, clock_time

END = "\x04"
"""Ctrl+D."""
ESCAPE = "\x1b"
TAB = "\t"
MOST_BYTES = 4096

LOOK_SECONDS = 0.1
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
LABEL_WIDTH = 8
"""In columns, of which a Chinese character takes two."""
MOST_COLUMNS = 120
FRAMES_PER_CHUNK = round(CHUNK_SECONDS / FRAME_SECONDS)
LOUDNESS_EXPONENT = 0.5
"""Quiet speech stays visible beside loud speech."""

_STATE_COLOURS = {
    State.LISTENING: "listening",
    State.SPEAKING: "speaking",
    State.CATCHING_UP: "urgent",
    State.RECONNECTING: "urgent",
}


class Keyboard:
    """What is being typed.

    Args:
        on_line: gets each line that is sent with Enter.
        on_key: gets Escape, Tab and Ctrl+D.
    """

    def __init__(self, on_line: Callable[[str], None], on_key: Callable[[str], None]) -> None:
        self.typed = ""
        self._on_line = on_line
        self._on_key = on_key
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @contextmanager
    def reading(self, file: int) -> Iterator[None]:
        """Read the terminal `file` while the block runs; call it on the event loop."""
        kept = termios.tcgetattr(file)
        loop = asyncio.get_running_loop()
        tty.setcbreak(file)
        loop.add_reader(file, lambda: self.pressed(os.read(file, MOST_BYTES)))
        try:
            yield
        finally:
            loop.remove_reader(file)
            termios.tcsetattr(file, termios.TCSADRAIN, kept)

    def pressed(self, keys: bytes) -> None:
        """Some keys, as the terminal sends them."""
        text = self._decoder.decode(keys)
        if text.startswith((f"{ESCAPE}[", f"{ESCAPE}O")):
            return  # an arrow, or another key that means nothing here
        for character in text:
            match character:
                case "\n" | "\r":
                    line, self.typed = self.typed, ""
                    self._on_line(line)
                case "\x7f" | "\b":
                    self.typed = self.typed[:-1]
                case "\x15":  # Ctrl+U
                    self.typed = ""
                case _ if character in (END, ESCAPE, TAB):
                    self._on_key(character)
                case _ if character.isprintable():
                    self.typed += character


class TerminalFrontEnd:
    """Shows a conversation in a terminal, and sends what is typed there."""

    def __init__(self, live: Live, words: Words, console: Console) -> None:
        self._live = live
        self._words = words
        self._console = console
        self._keyboard = Keyboard(self._typed, self._key)
        self._news = News(live)

    async def show(self) -> None:
        """Show and read until the user ends the conversation."""
        with (
            self._keyboard.reading(sys.stdin.fileno()),
            Display(console=self._console, auto_refresh=False, transient=True) as display,
        ):
            while True:
                self._tell_news()
                display.update(self.picture(), refresh=True)
                await asyncio.sleep(LOOK_SECONDS)

    def finish(self) -> None:
        """What is still to be said."""
        self._tell_news()

    def _typed(self, line: str) -> None:
        if line.strip().lower() == "q":
            self._live.stop()
        else:
            self._live.send_text(line)

    def _key(self, key: str) -> None:
        match key:
            case _ if key == ESCAPE:
                self._live.stop_reply()
            case _ if key == TAB:
                self._live.mute(not self._live.options.is_muted)
            case _ if key == END:
                self._live.stop()

    def _tell_news(self) -> None:
        for entry in self._news.entries():
            self._console.print(self._said(entry))

    # The picture

    def picture(self) -> Group:
        """Everything at the bottom of the terminal."""
        lines = [Text(), self._state_line(), self._reply_line(), *self._strip()]
        live, words = self._live, self._words
        if live.notice is not None:
            lines.append(Text(words.of(live.notice), _style("soft")))
        lines += [Text(words.of(problem), _style("urgent")) for problem in live.problems]
        if live.session.queue_place is not None:
            lines.append(Text(words.queue(live.session.queue_place), _style("soft")))
        lines.append(Text.assemble(("> ", _style("soft")), self._keyboard.typed, ("_", "blink")))
        lines.append(
            Text(words("hint.terminal"), Style(dim=True), no_wrap=True, overflow="ellipsis")
        )
        return Group(*lines)

    def _state_line(self) -> Text:
        live, words = self._live, self._words
        state, emotion = live.state, live.session.emotion
        line = Text(words.state(state), _style(_STATE_COLOURS.get(state, "soft"), bold=True))
        if emotion is not None:
            line.append(f"  {FACES[emotion]} {words.emotion(emotion)}", _style(emotion))
        if live.session.is_recording:
            time = clock_time(live.conversation.seconds)
            line.append(f"  {words('record.light', time=time)}", _style("urgent"))
        beside = []
        if live.session.speech.is_held:
            beside.append(words("held"))
        if live.session.seconds_behind:
            beside.append(words.behind(live.session.seconds_behind))
        if live.conversation.latencies is not None:
            beside.append(words.latencies(live.conversation.latencies))
        beside += words.counts(live)
        return line.append("".join(f"  {note}" for note in beside), _style("soft"))

    def _reply_line(self) -> Text:
        turn = self._live.conversation.turns.last
        # One that is over stands above.
        if turn is None or turn.end_seconds is not None:
            return Text()
        return Text(turn.text, _style("ink", bold=True))

    def _strip(self) -> list[Text]:
        """A column for each chunk, now at the right: how loud it was, and the chance to speak."""
        conversation = self._live.conversation
        num_columns = min(MOST_COLUMNS, self._console.width - LABEL_WIDTH - 1)
        blocks = ASCII_BLOCKS if self._console.options.ascii_only else BLOCKS
        sound = Text(_label(self._words("strip.sound")), _style("soft"))
        chance = Text(_label(self._words("strip.chance_short")), _style("soft"))
        num_chunks = len(conversation.peaks) // FRAMES_PER_CHUNK
        for chunk in range(num_chunks - num_columns, num_chunks):
            peak = _peak(conversation, chunk)
            sound.append(_block(blocks, peak**LOUDNESS_EXPONENT), _style("wave"))
            decision = _decision(conversation, chunk)
            if decision is None:
                chance.append(" ")
            else:
                is_said = decision.speaks
                style = _style("speaking" if is_said else "soft", bold=is_said)
                chance.append(_block(blocks, max(decision.probability, 0.01)), style)
        return [sound, chance]

    def _said(self, entry: Turn | TypedEntry | HeardEntry) -> Text:
        """A reply, what was typed or what was heard, once it is over."""
        words = self._words
        line = Text(f"{clock_time(entry.seconds):>6}  ", _style("soft"))
        if isinstance(entry, TypedEntry):
            return line.append(f"{words('turn.typed')}  ").append(entry.text)
        if isinstance(entry, HeardEntry):
            heard = Style(italic=True, dim=True)
            return line.append(f"{words('turn.heard')}  ").append(entry.whole_words, heard)
        if entry.emotion is not None:
            emotion = f"{FACES[entry.emotion]} {words.emotion(entry.emotion)}  "
            line.append(emotion, _style(entry.emotion))
        if entry.heard_text is None:
            line.append(entry.text, _style("ink"))
        else:
            line.append(entry.heard_text, _style("ink"))
            line.append(entry.text[len(entry.heard_text) :], Style(strike=True, dim=True))
        beside = [*words.notes(entry), f"{words.since(entry)}: {words.times(entry)}"]
        return line.append("  " + " · ".join(beside), Style(dim=True))


def _label(words: str) -> str:
    return words + " " * (LABEL_WIDTH - cell_len(words))


def _style(name: str, *, bold: bool = False) -> Style:
    """One of the page's colours; the ink is the terminal's own."""
    return Style(color=None if name == "ink" else _colours()[name], bold=bold)


@cache
def _colours() -> dict[str, str]:
    """The page's on a dark ground, by their names in its style sheet."""
    style = (PAGE_FOLDER / "page.css").read_text(encoding="utf-8")
    _, _, dark = style.partition(".page:is(.dark *) {")
    return dict(re.findall(r"--([\w-]+): (#\w{6});", dark.partition("}")[0]))


def _block(blocks: str, share: float) -> str:
    return blocks[min(len(blocks) - 1, round(share * (len(blocks) - 1) + 0.49))]


def _peak(conversation: Conversation, chunk: int) -> float:
    start = chunk * FRAMES_PER_CHUNK
    if start < conversation.peaks.first:
        return 0.0
    return max(conversation.peaks.get(start + frame) for frame in range(FRAMES_PER_CHUNK))


def _decision(conversation: Conversation, chunk: int) -> Decision | None:
    decisions = conversation.decisions
    return decisions.get(chunk) if decisions.first <= chunk < len(decisions) else None
