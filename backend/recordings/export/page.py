"""One page with the sound, the decisions and the text: it opens from disk and needs no network."""

import base64
from html import escape
from pathlib import Path

from backend.recordings.export.sound import mp3
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import transcript_json

TEMPLATE = Path(__file__).with_name("page.html")


def page(file: SessionFile) -> str:
    """The page, about 400 kB a minute: nearly all of it MP3, which every browser plays."""
    manifest = file.manifest
    stated = manifest.checkpoint
    about = (
        f"{manifest.started_at:%Y-%m-%d %H:%M} UTC · {file.seconds:.0f} s · {stated.name} on "
        f"{stated.device} · temperature {manifest.drawing.temperature:g} · seed {manifest.seed}"
        + ("" if file.is_complete else " · cut off")
    )
    strip = f"Sound and the probability to speak over {file.seconds:.0f} seconds"
    filled = {
        "title": escape(manifest.title or "A conversation"),
        "about": escape(about),
        "strip": escape(strip),
        "story": _for_html(transcript_json(file).decode()),
        "audio": base64.b64encode(mp3(file)).decode("ascii"),
    }
    # One pass: what is filled in may itself look like a place to fill.
    pieces = TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join(filled[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _for_html(json: str) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
