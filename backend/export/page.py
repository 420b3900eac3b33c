"""One page with the sound, the decisions and the text: it opens from disk and needs no network."""

import base64
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from backend.config import CHUNK_SECONDS
from backend.export.sound import mp3
from backend.export.text import note
from backend.session_file import SessionFile, Story
from backend.session_file.records import TypedRecord
from backend.session_file.story import Reply, chunk_end

TEMPLATE = Path(__file__).with_name("page.html")
PEAKS_PER_CHUNK = 4


def page(file: SessionFile, story: Story) -> str:
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
        "story": _json_for_html(_fields(file, story)),
        "audio": base64.b64encode(mp3(file)).decode("ascii"),
    }
    # One pass: what is filled in may itself look like a place to fill.
    pieces = TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join(filled[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _fields(file: SessionFile, story: Story) -> dict[str, object]:
    said: list[tuple[float, dict[str, object]]] = [
        (reply.seconds, _reply_fields(reply)) for reply in story.replies
    ]
    said += [(chunk_end(typed.chunk), _typed_fields(typed)) for typed in story.typed]
    return {
        "seconds": round(file.seconds, 3),
        "chunk_seconds": CHUNK_SECONDS,
        "peaks_per_chunk": PEAKS_PER_CHUNK,
        "peaks": list(_peaks(file)),
        "probabilities": [round(probability, 3) for probability in story.probabilities],
        "thresholds": [round(threshold, 3) for threshold in story.thresholds],
        "said": [fields for _, fields in sorted(said, key=lambda entry: entry[0])],
    }


def _reply_fields(reply: Reply) -> dict[str, object]:
    return {
        "kind": "reply",
        "seconds": reply.seconds,
        "end": round(reply.seconds + reply.shown_seconds, 2),
        "emotion": reply.emotion,
        "pieces": [[round(piece.seconds, 2), piece.text] for piece in reply.pieces],
        "note": note(reply),
    }


def _typed_fields(typed: TypedRecord) -> dict[str, object]:
    seconds = chunk_end(typed.chunk)
    return {
        "kind": "typed",
        "seconds": seconds,
        "end": seconds + 1,
        "emotion": None,
        "pieces": [[0, typed.text]],
        "note": "",
    }


def _peaks(file: SessionFile) -> Iterator[int]:
    """The loudness that is drawn, 0 to 100: the root makes quiet sounds visible."""
    for chunk in file.chunks():
        for peak in np.abs(chunk.reshape(PEAKS_PER_CHUNK, -1)).max(axis=1):
            yield round(100 * float(np.sqrt(peak)))


def _json_for_html(fields: dict[str, object]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
