"""What was heard and replied as one picture: the sound, the chance to speak, replies in order."""

from collections.abc import Sequence
from io import BytesIO
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.audio import Samples
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS
from backend.events import Decision, Event, TurnDone

WIDTH = 1200
_MARGIN = 24
_SOUND_HEIGHT = 120
_CHANCE_HEIGHT = 80
_LINE_HEIGHT = 26
_MAX_LINES = 40
_MAX_CHARACTERS = 110
_INK, _SOFT, _PAPER, _SPEAK = "#1c1d20", "#8b8d94", "#ffffff", "#0b7a4b"


def draw(samples: Samples, events: Sequence[Event]) -> bytes:
    """A PNG, 1200 pixels wide.

    Args:
        samples: what was heard, `[n]` at 16 kHz.
        events: what came of it.
    """
    decisions = [event for event in events if isinstance(event, Decision)]
    replies = [event for event in events if isinstance(event, TurnDone)]
    shown = replies[:_MAX_LINES]
    top = _MARGIN + _SOUND_HEIGHT + _CHANCE_HEIGHT + 2 * _LINE_HEIGHT
    picture = Image.new("RGB", (WIDTH, top + (len(shown) + 1) * _LINE_HEIGHT + _MARGIN), _PAPER)
    drawing = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    width = WIDTH - 2 * _MARGIN
    num_chunks = max(len(decisions), ceil(len(samples) / CHUNK_SAMPLES), 1)
    _draw_sound(drawing, samples, width * len(samples) / (num_chunks * CHUNK_SAMPLES))
    bottom = _MARGIN + _SOUND_HEIGHT + _CHANCE_HEIGHT
    for decision in decisions:
        left = _MARGIN + width * decision.chunk / num_chunks
        height = max(1.0, decision.speak_probability * _CHANCE_HEIGHT)
        box = (left, bottom - height, left + max(1.0, width / num_chunks - 1), bottom)
        drawing.rectangle(box, fill=_SPEAK if decision.speak else _SOFT)
    seconds = num_chunks * CHUNK_SECONDS
    drawing.text((_MARGIN, bottom + 4), "0 s", _SOFT, font)
    drawing.text((WIDTH - _MARGIN, bottom + 4), f"{seconds:.1f} s", _SOFT, font, anchor="ra")
    for number, reply in enumerate(shown):
        left = _MARGIN + width * (reply.chunk + 1) / num_chunks
        drawing.line((left, _MARGIN, left, bottom), fill=_SPEAK)
        drawing.text((left, 4), str(number + 1), _SPEAK, font, anchor="ma")
        at = f"{number + 1}.  {(reply.chunk + 1) * CHUNK_SECONDS:.1f} s"
        emotion = f", {reply.emotion}" if reply.emotion else ""
        line = f"{at}{emotion}:  {_one_line(reply.text)}"
        drawing.text((_MARGIN, top + number * _LINE_HEIGHT), line, _INK, font)
    rest = len(replies) - len(shown)
    if last := "no reply" if not replies else f"and {rest} more" if rest else "":
        drawing.text((_MARGIN, top + len(shown) * _LINE_HEIGHT), last, _SOFT, font)
    png = BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()


def _draw_sound(drawing: ImageDraw.ImageDraw, samples: Samples, width: float) -> None:
    """Its loudest samples, a pixel's at a time."""
    middle = _MARGIN + _SOUND_HEIGHT / 2
    parts = np.array_split(np.abs(samples), max(1, round(width)))
    peaks = np.array([part.max(initial=0) for part in parts])
    heights = peaks / max(float(peaks.max(initial=0)), 1e-3) * _SOUND_HEIGHT / 2
    for number, height in enumerate(heights):
        x = _MARGIN + number
        drawing.line((x, middle - height, x, middle + height), fill=_INK)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARACTERS else f"{line[: _MAX_CHARACTERS - 1]}…"
