"""A recording's story as JSON: what the exported page and the replay page show."""

from collections.abc import Iterator

import numpy as np

from backend.config import CHUNK_SECONDS
from backend.recordings.export.text import note
from backend.recordings.reader import SessionFile
from backend.recordings.records import (
    BargeInRecord,
    DecisionRecord,
    Drawing,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.recordings.story import Reply, SettingsChange, Story, chunk_end

PEAKS_PER_CHUNK = 4

Fields = dict[str, object]


def story_fields(file: SessionFile, story: Story) -> Fields:
    """All of it; times are seconds of the microphone's sound, but for `at`.

    Raises:
        SessionFileError: it was changed since it was opened.
    """
    manifest = file.manifest
    said: list[tuple[float, Fields]] = [
        (reply.seconds, _reply_fields(file, reply)) for reply in story.replies
    ]
    said += [(chunk_end(typed.chunk), _typed_fields(typed)) for typed in story.typed]
    return {
        "seconds": round(file.seconds, 3),
        "chunk_seconds": CHUNK_SECONDS,
        "peaks_per_chunk": PEAKS_PER_CHUNK,
        "peaks": list(_peaks(file)),
        "settings": _settings_fields(manifest.system_prompt, manifest.seed, manifest.drawing),
        "decisions": [_decision_fields(decision) for decision in story.decisions],
        "said": [fields for _, fields in sorted(said, key=lambda entry: entry[0])],
        "barge_ins": [
            _barge_in_fields(reply.barge_in)
            for reply in story.replies
            if reply.barge_in is not None
        ],
        "settings_changes": [_change_fields(change) for change in story.changes],
        "forked_at_chunk": manifest.forked_at_chunk,
        "failure": story.failure,
    }


def _settings_fields(system_prompt: str, seed: int, drawing: Drawing) -> Fields:
    return {
        "system_prompt": system_prompt,
        # As text: JavaScript's numbers do not reach 2^63.
        "seed": str(seed),
        **drawing.model_dump(),
    }


def _change_fields(change: SettingsChange) -> Fields:
    settings = change.settings
    return {
        "chunk": change.chunk,
        **_settings_fields(settings.system_prompt, settings.seed, settings.drawing),
    }


def _decision_fields(decision: DecisionRecord) -> Fields:
    return {
        "probability": round(decision.probability, 4),
        "threshold": round(decision.threshold, 4),
        "logits": [round(logit, 3) for logit in decision.logits],
        "milliseconds": round(decision.milliseconds, 1),
        "positions": decision.positions,
        "at": round(decision.at, 3),
    }


def _reply_fields(file: SessionFile, reply: Reply) -> Fields:
    return {
        "kind": "reply",
        "turn": reply.turn,
        "chunk": reply.chunk,
        "seconds": reply.seconds,
        "end": round(_end(file, reply), 2),
        "emotion": reply.emotion,
        "status": reply.status,
        "is_requested": reply.is_requested,
        "pieces": [[round(piece.seconds, 2), piece.text] for piece in reply.pieces],
        "note": note(reply),
        "latency": _latency_fields(reply.latency),
        "cut_at_ms": reply.playback.played_ms if reply.playback else None,
        "spoken": _spoken_fields(reply.playback),
    }


def _end(file: SessionFile, reply: Reply) -> float:
    """Where a reply is over: its sound or, where nobody heard any, the time that reading takes."""
    playback = reply.playback
    if playback is None or reply.turn not in file.reply_turns:
        return reply.seconds + reply.shown_seconds
    if playback.played_ms is not None:
        return playback.starts_at_seconds + playback.played_ms / 1000
    return playback.starts_at_seconds + file.reply_seconds(reply.turn)


def _typed_fields(typed: TypedRecord) -> Fields:
    seconds = chunk_end(typed.chunk)
    return {
        "kind": "typed",
        "turn": None,
        "chunk": typed.chunk,
        "seconds": seconds,
        "end": seconds + 1,
        "emotion": None,
        "status": None,
        "is_requested": False,
        "pieces": [[0, typed.text]],
        "note": "",
        "latency": None,
        "cut_at_ms": None,
        "spoken": None,
    }


def _latency_fields(latency: LatencyRecord | None) -> Fields | None:
    return None if latency is None else latency.model_dump(exclude={"type", "at", "turn"})


def _spoken_fields(playback: PlaybackRecord | None) -> Fields | None:
    if playback is None:
        return None
    return {
        "starts_at_seconds": playback.starts_at_seconds,
        "voice": playback.voice,
        "is_online": playback.is_online,
    }


def _barge_in_fields(barge_in: BargeInRecord) -> Fields:
    return barge_in.model_dump(include={"turn", "onset_seconds", "silence_ms"})


def _peaks(file: SessionFile) -> Iterator[int]:
    """The loudness that is drawn, 0 to 100: the root makes quiet sounds visible."""
    for chunk in file.chunks():
        for peak in np.abs(chunk.reshape(PEAKS_PER_CHUNK, -1)).max(axis=1):
            yield round(100 * float(np.sqrt(peak)))
