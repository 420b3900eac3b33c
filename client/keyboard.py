"""A line of typing below a display that moves: keys one by one, without the terminal's own echo."""

import asyncio
import codecs
import os
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

END = "\x04"
"""Ctrl+D."""
ESCAPE = "\x1b"
TAB = "\t"
MOST_BYTES = 4096


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
