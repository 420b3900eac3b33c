"""The transcript as Markdown."""

import re

from backend.recordings.annotations import Annotation
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import RecordedReply, Transcript, chunk_end

HEARD_NOTE = "What was heard is the model's own hearing, and may be wrong."
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~])")


def markdown(file: SessionFile, transcript: Transcript) -> str:
    """A heading, what it was recorded with, and a line for everything that was said."""
    manifest = file.manifest
    checkpoint = manifest.checkpoint
    lines = [
        f"# {_escaped(_line(manifest.title)) or 'A conversation'}",
        "",
        f"- {manifest.started_at:%Y-%m-%d %H:%M} UTC, {_clock(file.seconds)} long"
        + ("" if file.is_complete else ", cut off"),
        f"- {_escaped(_line(checkpoint.name))} ({checkpoint.fingerprint[:12]}) on "
        f"{checkpoint.device} in {checkpoint.number_format}",
        f"- temperature {manifest.drawing.temperature:g}, top-k {manifest.drawing.top_k}, "
        f"seed {manifest.seed}",
        f"- told first: {_escaped(_line(manifest.system_prompt)) or 'nothing'}",
        "",
    ]
    # Above the reply to it, where both are told at once.
    said = [(heard.seconds, f"*heard:* {_escaped(heard.text)}") for heard in transcript.heard]
    said += [(reply.seconds, _reply(reply)) for reply in transcript.replies]
    said += [
        (chunk_end(typed.chunk), f"*typed:* {_escaped(_line(typed.text))}")
        for typed in transcript.typed
    ]
    lines += [
        f"**{_clock(seconds)}** {text}  "
        for seconds, text in sorted(said, key=lambda entry: entry[0])
    ]
    if transcript.heard:
        lines += ["", HEARD_NOTE]
    if not said:
        lines.append("Nothing was said.")
    if transcript.annotations:
        lines += ["", "## Annotations", ""]
        lines += [_annotation(annotation, transcript) for annotation in transcript.annotations]
    if transcript.failure is not None:
        lines += ["", f"The conversation failed: {_escaped(_line(transcript.failure))}"]
    return "\n".join(lines) + "\n"


def _annotation(annotation: Annotation, transcript: Transcript) -> str:
    start, end = _span_of(annotation, transcript)
    about = _clock(start) if end is None else f"{_clock(start)} to {_clock(end)}"
    said = [f"*{annotation.verdict}*"] if annotation.verdict is not None else []
    said += [_escaped(_line(annotation.note))] if annotation.note else []
    return f"- **{about}** {': '.join(said)}"


def _span_of(annotation: Annotation, transcript: Transcript) -> tuple[float, float | None]:
    """Where what it is about begins and, of chunks, ends."""
    if annotation.span_seconds is not None:
        return annotation.span_seconds
    assert annotation.turn is not None, "it is about something"
    return transcript.replies[annotation.turn].seconds, None


def _reply(reply: RecordedReply) -> str:
    emotion = f"*{reply.emotion}:* " if reply.emotion else ""
    after = f" … *{reply.note}*" if reply.note else ""
    return f"{emotion}{_escaped(_line(reply.heard_text))}{after}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
