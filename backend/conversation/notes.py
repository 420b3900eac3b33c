"""What a conversation tells its recording beside what the engine does, in the recording's time.

The microphone's track holds what the model heard: the client's audio, and between it what was
typed. So a time of the client's audio is another one in the track.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from backend.config import CHUNK_SECONDS
from backend.conversation.reply import Reply
from backend.recordings.recorder import Recorder
from backend.recordings.records import (
    BargeInRecord,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.speech import SpokenPiece

MAX_OFFSETS = 256
"""Places where something was put into the client's audio that are remembered."""
MAX_REPLIES = 8
"""Spoken replies of late that a client may still tell of."""


class TrackTime:
    """Where in the microphone's track the client's audio lies."""

    def __init__(self) -> None:
        self._num_chunks = 0
        self._client_seconds = 0.0
        self._offsets: deque[tuple[float, float]] = deque([(0.0, 0.0)], maxlen=MAX_OFFSETS)

    @property
    def num_chunks(self) -> int:
        """Chunks so far: the number of the next."""
        return self._num_chunks

    @property
    def client_seconds(self) -> float:
        """How much of the client's audio lies in it."""
        return self._client_seconds

    def chunk_arrived(self, end_seconds: float, is_added: bool) -> None:
        """Another chunk; ends there in the client's audio, unless it was put in between."""
        start_seconds = max(self._client_seconds, end_seconds - CHUNK_SECONDS)
        offset = self._num_chunks * CHUNK_SECONDS - start_seconds
        self._num_chunks += 1
        if is_added:
            return
        self._client_seconds = end_seconds
        if abs(offset - self._offsets[-1][1]) > 1e-6:
            self._offsets.append((start_seconds, offset))

    def of(self, client_seconds: float) -> float:
        """Where the client's audio of that time is in the track, or will be, in seconds."""
        if client_seconds >= self._client_seconds:
            ahead_seconds = client_seconds - self._client_seconds
            return round(self._num_chunks * CHUNK_SECONDS + ahead_seconds, 3)
        for start_seconds, offset in reversed(self._offsets):
            if client_seconds >= start_seconds:
                return round(max(client_seconds + offset, 0.0), 3)
        return round(max(client_seconds + self._offsets[0][1], 0.0), 3)


@dataclass(slots=True)
class _Spoken:
    """What is known of a spoken reply; times are seconds of the client's audio."""

    voice: str = ""
    is_online: bool = False
    starts_at: float | None = None
    """None before it sounds."""
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
    """Tells a recorder what the engine does not know of; nobody where nothing is recorded."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self._track = TrackTime()
        self._spoken: OrderedDict[int, _Spoken] = OrderedDict()

    def chunk_arrived(self, end_seconds: float, is_added: bool = False) -> None:
        """A chunk is fed next; ends there in the client's audio, unless it was put in between."""
        self._track.chunk_arrived(end_seconds, is_added)

    def typed(self, text: str) -> None:
        """The chunks that are fed next hold this text."""
        if self.recorder is not None:
            chunk = self._track.num_chunks
            self.recorder.note(TypedRecord(at=self.recorder.now(), chunk=chunk, text=text))

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
        if self.recorder is None:
            return
        spoken = self._of(reply)
        self.recorder.reply_audio(reply.turn, piece.pcm)
        if starts_at_seconds is not None:
            spoken.voice, spoken.starts_at = piece.voice_id, starts_at_seconds
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
        """Somebody spoke over a reply, which was stopped."""
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
        if self.recorder is None:
            return
        starts_at = spoken.starts_at
        if starts_at is None:
            # It may be stopped before it sounds.
            starts_at = self._track.client_seconds
        self.recorder.note(
            PlaybackRecord(
                at=self.recorder.now(),
                turn=reply.turn,
                starts_at_seconds=self._track.of(starts_at),
                played_ms=None if spoken.cut_at_ms is None else round(spoken.cut_at_ms, 1),
                voice=spoken.voice,
                is_online=spoken.is_online,
            )
        )

    def _note_barge_in(self, reply: Reply) -> None:
        spoken = self._of(reply)
        if self.recorder is None or spoken.onset is None:
            return
        silence_ms = None
        if spoken.is_acknowledged:
            silence_ms = round(max(0.0, spoken.sounded_until - spoken.onset) * 1000, 1)
        self.recorder.note(
            BargeInRecord(
                at=self.recorder.now(),
                turn=reply.turn,
                onset_seconds=self._track.of(spoken.onset),
                silence_ms=silence_ms,
            )
        )

    def _note_latency(self, reply: Reply) -> None:
        """From the end of the speech that it answers; of a reply that answers none, nothing."""
        spoken = self._of(reply)
        latency = reply.latency(spoken.starts_at if spoken.is_acknowledged else None)
        if self.recorder is None or latency is None:
            return
        self.recorder.note(
            LatencyRecord(
                at=self.recorder.now(),
                turn=reply.turn,
                decision_ms=latency.decision_ms,
                first_text_ms=latency.first_text_ms,
                first_sound_ms=latency.first_sound_ms,
            )
        )
