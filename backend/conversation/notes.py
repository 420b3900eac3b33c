"""What a conversation tells its recording beside what the engine does, in the recording's time."""

from collections import OrderedDict
from dataclasses import dataclass

from backend.conversation.reply import Reply
from backend.conversation.timeline import Timeline
from backend.recordings.recorder import Recorder
from backend.recordings.records import (
    BargeInRecord,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.speech import SpokenPiece

MAX_REPLIES = 8
"""Spoken replies of late that a client may still tell of."""


@dataclass(slots=True)
class _Spoken:
    """What is known of a spoken reply; times are seconds of the client's audio."""

    voice: str = ""
    is_online: bool = False
    starts_at: float | None = None
    """None before it sounds."""
    sent_at: float = 0.0
    """How much of the client's audio had come when its first sound was sent."""
    is_acknowledged: bool = False
    """Whether the client has said where it plays it."""
    furthest_ms: float = 0.0
    """How far the client has got by its own word."""
    sounded_until: float = 0.0
    """When that was."""
    cut_at_ms: float | None = None
    """How much of it was heard, where it was cut off."""
    onset: float | None = None
    """Where the voice began that stopped it."""


class Notes:
    """Tells a recorder what the engine does not know of.

    Args:
        timeline: of the conversation.
        recorder: None where nothing is recorded.
    """

    def __init__(self, timeline: Timeline, recorder: Recorder | None) -> None:
        self._timeline = timeline
        self._recorder = recorder
        self._spoken: OrderedDict[int, _Spoken] = OrderedDict()

    def typed(self, text: str) -> None:
        """The chunks that are fed next hold this text."""
        if self._recorder is not None:
            chunk = self._timeline.num_chunks
            self._recorder.note(TypedRecord(at=self._recorder.now(), chunk=chunk, text=text))

    def written(self, reply: Reply) -> None:
        """The model has said all of a reply."""
        self._note_latency(reply)

    def text_leaves(self, reply: Reply, voice_id: str) -> None:
        """An online voice is asked to say a reply: whatever comes of it, it has got the text."""
        spoken = self._of(reply)
        spoken.is_online = True
        spoken.voice = spoken.voice or voice_id
        self._note_playback(reply)

    def sounds(self, reply: Reply, piece: SpokenPiece, starts_at_seconds: float | None) -> None:
        """More of a reply's sound; with its first, when the client is taken to play it."""
        if self._recorder is None:
            return
        spoken = self._of(reply)
        self._recorder.reply_audio(reply.turn, piece.pcm)
        if starts_at_seconds is not None:
            spoken.voice, spoken.starts_at = piece.voice_id, starts_at_seconds
            spoken.sent_at = self._timeline.now_seconds
            self._note_latency(reply)
            self._note_playback(reply)

    def acknowledged(self, reply: Reply, played_ms: float, at_seconds: float) -> None:
        """The client had played so much of a reply when its audio had got there."""
        spoken = self._of(reply)
        if spoken.starts_at is None:
            return
        played_ms = min(played_ms, reply.audio_ms)
        if not spoken.is_acknowledged:
            spoken.is_acknowledged = True
            spoken.starts_at = at_seconds - played_ms / 1000
            self._note_playback(reply)
            self._note_latency(reply)
        if played_ms > spoken.furthest_ms:
            spoken.furthest_ms, spoken.sounded_until = played_ms, at_seconds
        if spoken.cut_at_ms is not None:
            self.cut(reply, played_ms)
            self._note_barge_in(reply)

    def cut(self, reply: Reply, played_ms: float) -> None:
        """No more than that of a reply was heard."""
        spoken = self._of(reply)
        if spoken.starts_at is not None and played_ms < reply.audio_ms:
            spoken.cut_at_ms = played_ms
            self._note_playback(reply)

    def barged_in(self, reply: Reply, onset_seconds: float) -> None:
        """A voice spoke over a reply, which was stopped."""
        self._of(reply).onset = onset_seconds
        self._note_barge_in(reply)

    def _of(self, reply: Reply) -> _Spoken:
        spoken = self._spoken.setdefault(reply.turn, _Spoken())
        while len(self._spoken) > MAX_REPLIES:
            self._spoken.popitem(last=False)
        return spoken

    def _note_playback(self, reply: Reply) -> None:
        """Where it lies in the track; the last record of a reply counts."""
        spoken = self._of(reply)
        if self._recorder is None:
            return
        starts_at = spoken.starts_at
        if starts_at is None:
            # It may be stopped before it sounds.
            starts_at = self._timeline.tracked_seconds
        self._recorder.note(
            PlaybackRecord(
                at=self._recorder.now(),
                turn=reply.turn,
                starts_at_seconds=self._timeline.track_seconds(starts_at),
                played_ms=None if spoken.cut_at_ms is None else round(spoken.cut_at_ms, 1),
                voice=spoken.voice,
                is_online=spoken.is_online,
            )
        )

    def _note_barge_in(self, reply: Reply) -> None:
        spoken = self._of(reply)
        if self._recorder is None or spoken.onset is None:
            return
        silence_ms = None
        if spoken.is_acknowledged:
            silence_ms = round(max(0.0, spoken.sounded_until - spoken.onset) * 1000, 1)
        self._recorder.note(
            BargeInRecord(
                at=self._recorder.now(),
                turn=reply.turn,
                onset_seconds=self._timeline.track_seconds(spoken.onset),
                silence_ms=silence_ms,
            )
        )

    def _note_latency(self, reply: Reply) -> None:
        """From the end of the speech that it answers; of a reply that answers none, nothing."""
        spoken = self._of(reply)
        played_after = 0.0
        if spoken.is_acknowledged and spoken.starts_at is not None:
            # Before it was sent it cannot have been heard, whatever the clocks say.
            played_after = max(0.0, spoken.starts_at - spoken.sent_at)
        latency = reply.latency(played_after)
        if self._recorder is None or latency is None:
            return
        self._recorder.note(
            LatencyRecord(
                at=self._recorder.now(),
                turn=reply.turn,
                decision_ms=round(latency.decision_ms, 1),
                first_text_ms=_rounded(latency.first_text_ms),
                first_sound_ms=_rounded(latency.first_sound_ms),
            )
        )


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
