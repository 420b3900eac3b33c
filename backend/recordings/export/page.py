"""One page with the sound, the decisions and the text: it opens from disk and needs no network."""

import base64
import tempfile
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from backend.recordings.export.sound import write_mp3
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import transcript_json

TEMPLATE = Path(__file__).with_name("page.html")
SOUND_BLOCK_BYTES = 3 * 2**16
"""A multiple of three: base64 has four characters for each three bytes."""


def write_page(file: SessionFile, output: Path) -> None:
    """The page, about 400 kB a minute: nearly all of it MP3, which every browser plays."""
    manifest = file.manifest
    stated = manifest.checkpoint
    about = (
        f"{manifest.started_at:%Y-%m-%d %H:%M} UTC · {file.seconds:.0f} s · {stated.name} on "
        f"{stated.device} · temperature {manifest.drawing.temperature:g} · seed {manifest.seed}"
        + ("" if file.is_complete else " · cut off")
    )
    strip = f"Sound and the probability to speak over {file.seconds:.0f} seconds"
    filled: dict[str, Iterable[str]] = {
        "title": [escape(manifest.title or "A conversation")],
        "about": [escape(about)],
        "strip": [escape(strip)],
        "story": [_for_html(transcript_json(file).decode())],
        "audio": _sound(file, output.parent),
    }
    # One pass: what is filled in may itself look like a place to fill.
    pieces = TEMPLATE.read_text(encoding="utf-8").split("@@")
    with output.open("w", encoding="utf-8") as page:
        for number, piece in enumerate(pieces):
            page.writelines(filled[piece] if number % 2 else [piece])


def _sound(file: SessionFile, folder: Path) -> Iterator[str]:
    """The sound as base64, in pieces: an hour of it is not held in memory."""
    with tempfile.TemporaryFile(dir=folder) as sound:
        write_mp3(file, sound)
        sound.seek(0)
        while block := sound.read(SOUND_BLOCK_BYTES):
            yield base64.b64encode(block).decode("ascii")


def _for_html(json: str) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
