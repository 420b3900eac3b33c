"""The recording of one conversation, and what it is told beside what the engine does."""

from collections import OrderedDict
from dataclasses import dataclass

from backend.config import SessionSettings
from backend.conversation.commands import CommandError, Problem
from backend.conversation.events import RecordingStarted
from backend.conversation.replies import RECENT_REPLIES, Reply, Tell
from backend.conversation.timeline import Timeline
from backend.errors import RecordingError
from backend.recordings.live import LiveRecording, Recordings, RecordingStopped, StopReason
from backend.recordings.recorder import Recorder
from backend.recordings.records import (
    BargeInRecord,
    LatencyRecord,
    PlaybackRecord,
    TypedRecord,
)
from backend.speech import SpokenPiece

MOVED = "the conversation goes on on another server; what was recorded before is kept"


class ConversationRecording:
    """Begins and ends the recording of a conversation.

    Args:
        recordings: where conversations are recorded; None where nothing is.
    """

    def __init__(self, recordings: Recordings | None, tell: Tell) -> None:
        self._recordings = recordings
        self._tell = tell
        self._live: LiveRecording | None = None
        """While the client takes the conversation to be recorded."""
        self._recording_id: str | None = None

    async def begin(self, settings: SessionSettings, max_positions: int, title: str) -> Recorder:
        """Start to record; returns the trace of the session that follows.

        Raises:
            RecordingError: a client that asked to be recorded does not talk unrecorded.
        """
        if self._recordings is None:
            raise RecordingError("this server records nothing", "recording_off")
        self._live = await self._recordings.begin(settings, max_positions, title, self._stopped)
        self._recording_id = self._live.recording_id
        return self._live.recorder

    async def abandon(self) -> None:
        """Leave nothing of it: the conversation could not begin."""
        if self._recordings is not None and self._live is not None:
            await self._recordings.abandon(self._live)

    @property
    def live_id(self) -> str | None:
        """Of the recording that goes on; None where none does."""
        return None if self._live is None else self._live.recording_id

    def tell_lost(self, recording_id: str) -> None:
        """The conversation goes on elsewhere, and is recorded no more."""
        self._tell(RecordingStopped(recording_id, 0.0, None, StopReason.FAILED, MOVED))

    def tell_begun(self) -> None:
        """Say that it is recorded, if it is."""
        if (live := self._live) is not None:
            self._tell(RecordingStarted(live.recording_id, live.title, live.started_at))

    def stop(self) -> None:
        """The client wants it to end; the conversation goes on.

        Raises:
            CommandError: nothing is recorded.
        """
        if self._recordings is None or self._live is None:
            raise CommandError("this conversation is not recorded", Problem.NOT_RECORDED)
        self._recordings.end(self._live.recording_id, StopReason.CLIENT)

    def tell_ended(self) -> None:
        """The conversation ends, and its recording with it: its size is known when it is packed."""
        live, self._live = self._live, None
        if live is not None:
            reason = StopReason.SESSION_ENDED
            self._tell(RecordingStopped(live.recording_id, live.seconds, None, reason))

    def close(self) -> None:
        """Have it packed. Closing twice is allowed."""
        if self._recordings is not None and self._recording_id is not None:
            self._recordings.end(self._recording_id, StopReason.SESSION_ENDED)

    def _stopped(self, stopped: RecordingStopped) -> None:
        # Of one that ended with the conversation the client was told then.
        if self._live is not None:
            self._live = None
            self._tell(stopped)


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
        while len(self._spoken) > RECENT_REPLIES:
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
