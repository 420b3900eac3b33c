"""The transcript as text: Markdown, and captions as WebVTT and SubRip."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.recordings.reader import SessionFile
from backend.recordings.records import Annotation, TypedRecord
from backend.recordings.transcript import (
    Entry,
    HeardSpeech,
    RecordedReply,
    Transcript,
    begins_at,
)

HEARD_NOTE = "What was heard is the model's own hearing, and may be wrong."
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~])")
SHORTEST_CUE_SECONDS = 0.2
HEARD_VOICE = "Heard"
"""Of captions that say what the model heard."""


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
    said = transcript.entries()
    lines += [f"**{_clock(begins_at(entry))}** {_entry(entry)}  " for entry in said]
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


def _entry(entry: Entry) -> str:
    match entry:
        case HeardSpeech():
            return f"*heard:* {_escaped(entry.text)}"
        case TypedRecord():
            return f"*typed:* {_escaped(_line(entry.text))}"
        case RecordedReply():
            emotion = f"*{entry.emotion}:* " if entry.emotion else ""
            after = f" … *{entry.note}*" if entry.note else ""
            return f"{emotion}{_escaped(_line(entry.heard_text))}{after}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


# Captions


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption between two times of the microphone's audio."""

    start_seconds: float
    end_seconds: float
    text: str
    """On one line, with what was cut off marked."""
    voice: str = "Assistant"
    emotion: Emotion | None = None


def cues(transcript: Transcript) -> list[Caption]:
    """What was heard and what was replied, in the order in which it begins."""
    heard = (
        Caption(speech.seconds, speech.end_seconds, speech.text, HEARD_VOICE)
        for speech in transcript.heard
    )
    return sorted([*heard, *_reply_captions(transcript)], key=lambda cue: cue.start_seconds)


def _reply_captions(transcript: Transcript) -> Iterator[Caption]:
    """One caption a reply, while it is heard; each ends where the next begins, at the latest."""
    replies = [reply for reply in transcript.replies if reply.heard_text.strip()]
    for reply, following in zip(replies, [*replies[1:], None], strict=False):
        start, end = reply.starts_at_seconds, reply.ends_at_seconds
        if following is not None:
            end = min(end, following.starts_at_seconds)
        yield Caption(
            start,
            max(end, start + SHORTEST_CUE_SECONDS),
            " ".join(reply.heard_text.split()) + ("" if is_whole(reply) else " …"),
            emotion=reply.emotion,
        )


def is_whole(reply: RecordedReply) -> bool:
    """Whether all that the model wanted to say was heard."""
    return reply.told_status is TurnStatus.COMPLETED


def vtt(transcript: Transcript) -> str:
    """WebVTT; a reply's emotion is its voice's class."""
    parts = ["WEBVTT\n"]
    for number, cue in enumerate(cues(transcript), start=1):
        emotion = f".{cue.emotion}" if cue.emotion else ""
        times = f"{_cue_time(cue.start_seconds, '.')} --> {_cue_time(cue.end_seconds, '.')}"
        parts.append(f"{number}\n{times}\n<v{emotion} {cue.voice}>{_without_tags(cue.text)}</v>\n")
    return "\n".join(parts)


def srt(transcript: Transcript) -> str:
    """SubRip, plain text; what was heard stands in brackets."""
    parts = []
    for number, cue in enumerate(cues(transcript), start=1):
        times = f"{_cue_time(cue.start_seconds, ',')} --> {_cue_time(cue.end_seconds, ',')}"
        # A tag or an arrow in the text would be taken for the format's own.
        text = cue.text.replace("<", "(").replace(">", ")")
        if cue.voice == HEARD_VOICE:
            text = f"[{text}]"
        parts.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(parts)


def _cue_time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"


def _without_tags(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
