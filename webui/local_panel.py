"""What the local page's panel is told: a conversation in the shape that `local-panel.js` shows.

The names are those of the page's own modules, see `webui/static/conversation.js`.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from client.audio_format import CHUNK_SECONDS, FRAME_SECONDS
from client.conversation import Conversation, Decision, HeardEntry, Turn, TypedEntry
from client.live import Live, State
from client.words import Words, clock_time

SHOWN_SECONDS = 60.0
"""More than the strip shows on the widest screen."""
MOST_ENTRIES = 50
"""That are listed."""

Told = dict[str, Any]


def now(live: Live, words: Words) -> Told:
    """Face, reply and strip."""
    session, turn = live.session, live.conversation.turns.last
    return {
        "view": "now",
        "state": live.state,
        "emotion": session.emotion if session.is_open else None,
        "level": round(live.level, 4),
        "fraction": session.speech.fraction,
        "hint": "hint.start" if live.state is State.IDLE else "hint.speak",
        "turn": turn and _turn(turn),
        "queue": session.queue_place
        and {
            "position": session.queue_place.position,
            "waitSeconds": session.queue_place.wait_seconds,
        },
        "latencies": _latencies(live.conversation),
        "recordingLight": _recording_light(live, words),
        "news": list(_news(live, words)),
        "threshold": live.threshold,
        "strip": _strip(live.conversation) if live.conversation.seconds else None,
    }


def said(live: Live, number: int) -> Told:
    """What was said, typed and heard in this conversation, and the memory that it takes."""
    entries = live.conversation.entries
    first = max(entries.first, len(entries) - MOST_ENTRIES)
    return {
        "view": "said",
        "conversation": number,
        "latencies": _latencies(live.conversation),
        "positions": live.conversation.positions or 0,
        "maxPositions": live.session.max_positions,
        "entries": [
            {"number": at, **_entry(entry)} for at, entry in enumerate(entries.since(first), first)
        ],
    }


def _latencies(conversation: Conversation) -> Told | None:
    if (latencies := conversation.latencies) is None:
        return None
    return {"p50": latencies.p50, "p95": latencies.p95}


def _recording_light(live: Live, words: Words) -> str:
    if not live.session.is_recording:
        return ""
    return words("record.light", time=clock_time(live.conversation.seconds))


def _news(live: Live, words: Words) -> Iterator[str]:
    """What is not as it should be, or not as it is on most days."""
    if live.session.seconds_behind:
        yield words.behind(live.session.seconds_behind)
    if live.session.speech.is_held:
        yield words("held")
    yield from words.counts(live)


def _entry(entry: Turn | TypedEntry | HeardEntry) -> Told:
    match entry:
        case Turn():
            return {"turn": _turn(entry)}
        case TypedEntry():
            return {"typed": {"text": entry.text, "seconds": entry.seconds}}
        case HeardEntry():
            return {"heard": {"text": entry.whole_words, "seconds": entry.seconds}}


def _turn(turn: Turn) -> Told:
    return {
        "number": turn.number,
        "seconds": turn.seconds,
        "endSeconds": turn.end_seconds,
        "emotion": turn.emotion,
        "text": turn.text,
        "status": turn.status,
        "reason": turn.reason,
        "isUnprompted": turn.is_unprompted,
        "isTyped": turn.is_typed,
        "saidText": turn.said_text,
        "heardText": turn.heard_text,
        "cutAfterMs": turn.cut_after_ms,
        "silentInMs": turn.silent_in_ms,
        "wasHeld": turn.was_held,
        "timing": {
            "decidedMs": turn.timing.decided_ms,
            "firstTextMs": turn.timing.first_text_ms,
            "firstSoundMs": turn.timing.first_sound_ms,
        },
    }


def _strip(conversation: Conversation) -> Told:
    """As much of a conversation as is drawn."""
    since = conversation.seconds - SHOWN_SECONDS
    peaks, decisions = conversation.peaks, conversation.decisions
    first_frame = max(peaks.first, int(since / FRAME_SECONDS), 0)
    first_chunk = max(decisions.first, int(since / CHUNK_SECONDS), 0)
    turns = conversation.turns.since(0)
    return {
        "seconds": conversation.seconds,
        "firstFrame": first_frame,
        "peaks": [round(peak, 3) for peak in peaks.since(first_frame)],
        "firstChunk": first_chunk,
        "decisions": [_decision(decision) for decision in decisions.since(first_chunk)],
        "turns": [_turn(turn) for turn in turns if (turn.end_seconds or since) >= since],
        "gaps": [asdict(gap) for gap in conversation.gaps.since(0)],
    }


def _decision(decision: Decision | None) -> Told | None:
    if decision is None:
        return None
    return {
        "chunk": decision.chunk,
        "probability": round(decision.probability, 4),
        "threshold": round(decision.threshold, 4),
        "speaks": decision.speaks,
        "milliseconds": decision.milliseconds,
        "decisionMs": decision.decision_ms,
        "positions": decision.positions,
    }
