"""Captions: WebVTT and SubRip."""

from collections.abc import Iterator
from dataclasses import dataclass

from backend.events import TurnStatus
from backend.protocol import Emotion
from backend.recordings.transcript import RecordedReply, Transcript

SHORTEST_CUE_SECONDS = 0.2
HEARD_VOICE = "Heard"
"""Of captions that say what the model heard."""


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
    return sorted([*heard, *_replies(transcript)], key=lambda cue: cue.start_seconds)


def _replies(transcript: Transcript) -> Iterator[Caption]:
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
        times = f"{_time(cue.start_seconds, '.')} --> {_time(cue.end_seconds, '.')}"
        parts.append(f"{number}\n{times}\n<v{emotion} {cue.voice}>{_escaped(cue.text)}</v>\n")
    return "\n".join(parts)


def srt(transcript: Transcript) -> str:
    """SubRip, plain text; what was heard stands in brackets."""
    parts = []
    for number, cue in enumerate(cues(transcript), start=1):
        times = f"{_time(cue.start_seconds, ',')} --> {_time(cue.end_seconds, ',')}"
        # A tag or an arrow in the text would be taken for the format's own.
        text = cue.text.replace("<", "(").replace(">", ")")
        if cue.voice == HEARD_VOICE:
            text = f"[{text}]"
        parts.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(parts)


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
