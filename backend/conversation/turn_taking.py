"""Whose turn it is: where utterances begin and end, and what a voice over a reply does to it."""

from collections import deque
from dataclasses import dataclass

from backend.conversation.events import (
    CancelReason,
    ChunkDecision,
    OutputStopped,
    OverlapAction,
    OverlapDecision,
    OverlapReason,
    PlaybackAcknowledged,
    ReplyOverlapped,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
)
from backend.conversation.hearing import Hearing
from backend.conversation.model_session import ModelSession
from backend.conversation.overlap import OverlapOutcome
from backend.conversation.recording import Notes
from backend.conversation.replies import Replies, Reply, Tell
from backend.conversation.speech_queue import SpeechQueue
from backend.conversation.timeline import Timeline
from backend.conversation.transcript import InputTranscript

LATEST_ACK_SECONDS = 10.0
"""So far ahead of the audio that has come may a client say that it was."""


@dataclass(slots=True)
class _Playing:
    """At `at_seconds` of the client's audio, `played_ms` of the reply had been played."""

    reply: Reply
    at_seconds: float
    played_ms: float = 0.0

    @property
    def ends_at_seconds(self) -> float:
        return self.at_seconds + (self.reply.audio_ms - self.played_ms) / 1000

    def is_over(self, now_seconds: float) -> bool:
        return self.reply.is_complete and now_seconds >= self.ends_at_seconds

    def advance(self, now_seconds: float) -> None:
        """It was played until now."""
        elapsed_ms = max(now_seconds - self.at_seconds, 0.0) * 1000
        self.played_ms = min(self.played_ms + elapsed_ms, self.reply.audio_ms)


class ClientPlayback:
    """What the client plays of spoken replies: as it acknowledges, else as time goes by.

    Times are seconds of the client's own audio, so that nothing here needs a clock.
    """

    def __init__(self) -> None:
        self._playing: deque[_Playing] = deque()
        self._is_held = False

    def reply_started(self, reply: Reply, now_seconds: float) -> None:
        """A reply's sound will come."""
        self._playing.append(_Playing(reply, now_seconds))

    def sound_arrived(self, reply: Reply, now_seconds: float) -> float:
        """The first of a reply's sound is sent; returns from when on it is played.

        That is once the replies before it have been, which are complete by now.
        """
        starts_at_seconds = now_seconds
        for playing in self._playing:
            if playing.reply is reply:
                playing.at_seconds = starts_at_seconds
                break
            starts_at_seconds = max(starts_at_seconds, playing.ends_at_seconds)
        return starts_at_seconds

    def acknowledge(self, reply: Reply, played_ms: float, at_seconds: float) -> None:
        """The client says how far it was, and when."""
        for playing in self._playing:
            if playing.reply is reply:
                playing.at_seconds = at_seconds
                playing.played_ms = min(played_ms, reply.audio_ms)

    def hold(self, now_seconds: float) -> None:
        """The client is silent from now on, and may go on where it was."""
        self._is_held = True
        if self._playing:
            self._playing[0].advance(now_seconds)

    def go_on(self, now_seconds: float) -> None:
        """It does, if it was held."""
        if self._is_held and self._playing:
            self._playing[0].at_seconds = now_seconds
        self._is_held = False

    def forget(self, reply: Reply) -> None:
        """The client plays no more of it."""
        if self._playing and self._playing[0].reply is reply:
            self._is_held = False
        self._playing = deque(playing for playing in self._playing if playing.reply is not reply)

    def unheard(self, now_seconds: float) -> list[tuple[Reply, float]]:
        """The replies that are not played to their end yet, with how many milliseconds were."""
        if not self._is_held:
            for playing in self._playing:
                playing.advance(now_seconds)
        return [
            (playing.reply, playing.played_ms)
            for playing in self._playing
            if not playing.reply.is_complete or playing.played_ms < playing.reply.audio_ms
        ]

    def stop(self) -> None:
        """Nothing is played any more."""
        self._playing.clear()
        self._is_held = False

    def current(self, now_seconds: float) -> Reply | None:
        """The reply that is played, held or about to be; None where all is quiet."""
        if not self._is_held:
            while self._playing and self._playing[0].is_over(now_seconds):
                self._playing.popleft()
        return self._playing[0].reply if self._playing else None


@dataclass(frozen=True, slots=True)
class TurnTakingState:
    """What another process needs to go on with taking turns."""

    playback: ClientPlayback
    has_audio: bool
    is_speech_told: bool


class TurnTaking:
    """Takes turns between the client's user and the model's replies.

    Args:
        reports_playback: whether the client says what it plays, and holds it when it is told to.
            Others are taken to play what they get as it comes, without a break.
    """

    def __init__(
        self,
        timeline: Timeline,
        hearing: Hearing,
        replies: Replies,
        speech: SpeechQueue,
        notes: Notes,
        transcript: InputTranscript,
        session: ModelSession,
        tell: Tell,
        reports_playback: bool,
    ) -> None:
        self._timeline = timeline
        self._hearing = hearing
        self._replies = replies
        self._speech = speech
        self._notes = notes
        self._transcript = transcript
        self._session = session
        self._tell = tell
        self._reports_playback = reports_playback
        self._playback = ClientPlayback()
        self.has_audio = False
        """Whether audio has come since the last utterance ended."""
        self._is_speech_told = False

    def state(self) -> "TurnTakingState":
        """All of it."""
        return TurnTakingState(self._playback, self.has_audio, self._is_speech_told)

    def take_up(self, state: "TurnTakingState") -> None:
        """Go on from a state of another process's."""
        self._playback = state.playback
        self.has_audio = state.has_audio
        self._is_speech_told = state.is_speech_told
        if self.sounding_reply() is not None:
            self._hearing.overlap.reply_started()

    def sounding_reply(self) -> Reply | None:
        """The spoken reply that is played, held or about to be."""
        return self._playback.current(self._timeline.now_seconds)

    @property
    def is_quiet(self) -> bool:
        """Whether neither the client's user nor a reply can be heard."""
        return not self._is_speech_told and self.sounding_reply() is None

    def follow(self, outcomes: list[OverlapOutcome], reply: Reply | None) -> None:
        """Tell what was made of voices, over a reply or not; it is stopped if that follows."""
        if self._tell_outcomes(outcomes, reply):
            self.stop(CancelReason.VOICE)

    def end_utterance(self) -> None:
        """What the client sent since the last one is an utterance."""
        self.has_audio = False
        self._tell(UtteranceEnded())

    def reply_begins(self, decision: ChunkDecision) -> None:
        """The user's part ends before the reply to it begins, whether or not a voice goes on."""
        if decision.is_added:
            return
        end_seconds = decision.speech_end_seconds
        if end_seconds is None:
            end_seconds = decision.seconds
        self._speech_stopped(SpeechStopped(end_seconds, decision.seconds))
        if self.has_audio:
            self.end_utterance()
            self._transcript.utterance_ended(decision.seconds)

    def reply_is_spoken(self, reply: Reply) -> None:
        """A reply that has begun will sound."""
        self._playback.reply_started(reply, self._timeline.now_seconds)
        self._hearing.overlap.reply_started()

    def sound_begins(self, reply: Reply) -> float:
        """The first sound of a reply is sent; returns from when on it is played.

        Until the client says when it plays this, it is taken to play it as soon as it can.
        """
        now_seconds = self._timeline.now_seconds
        starts_at_seconds = self._playback.sound_arrived(reply, now_seconds)
        if not self._reports_playback or starts_at_seconds == now_seconds:
            self._hearing.echo.played(reply.turn, 0, starts_at_seconds)
        return starts_at_seconds

    def stop(self, reason: CancelReason) -> None:
        """End all that is being said, generated or played."""
        self._speech.stop()
        for reply, played_ms in self._playback.unheard(self._timeline.now_seconds):
            self._notes.cut(reply, played_ms)
        self._playback.stop()
        self._hearing.overlap.reply_ended()
        turn = self._replies.newest_turn
        self._replies.cancel(reason)
        if turn is not None:
            self._session.interrupt(turn)

    def client_interrupts(self) -> None:
        """The client itself has found a voice over the reply."""
        outcomes = self._hearing.overlap.client_stops(self._timeline.now_seconds)
        self._tell_outcomes(outcomes, self.sounding_reply())
        self.stop(CancelReason.CLIENT)

    def stop_output(self) -> None:
        """The client wants nothing more to be said, as clients do that play nothing themselves."""
        reply = self.sounding_reply() or self._replies.newest
        self.stop(CancelReason.CLIENT)
        self._tell(OutputStopped(reply.turn if reply else None))

    def truncate(self, reply: Reply, heard_ms: int) -> None:
        """Of a spoken reply only so much was heard; it ends if it goes on."""
        if reply is self._replies.current:
            # Nothing that comes after would be heard.
            self.stop(CancelReason.CLIENT)
        self._notes.cut(reply, heard_ms)
        self._playback.forget(reply)
        self._tell(reply.truncate(heard_ms))

    def acknowledge(self, reply: Reply, played_ms: float, at_seconds: float | None) -> None:
        """The client has played so much of a reply at a time of its own audio; None for now."""
        now_seconds = self._timeline.now_seconds
        if at_seconds is None:
            at_seconds = now_seconds
        # What it has captured and not sent yet is seconds at most.
        known_seconds = min(at_seconds, now_seconds + LATEST_ACK_SECONDS)
        self._notes.acknowledged(reply, played_ms, known_seconds)
        self._playback.acknowledge(reply, played_ms, at_seconds)
        self._hearing.echo.played(reply.turn, played_ms / 1000, at_seconds)
        self._tell(PlaybackAcknowledged(reply.turn, played_ms, reply.audio_ms))

    def _tell_outcomes(self, outcomes: list[OverlapOutcome], reply: Reply | None) -> bool:
        """Returns whether a voice stops the reply."""
        is_stopped = False
        for outcome in outcomes:
            match outcome:
                case SpeechStarted():
                    self._speech_started(outcome)
                case SpeechStopped():
                    self._speech_stopped(outcome)
                case OverlapDecision():
                    is_stopped = is_stopped or outcome.action is OverlapAction.BARGE_IN
                    self._overlapped(outcome, reply)
        return is_stopped

    def _speech_started(self, speech: SpeechStarted) -> None:
        if not self._is_speech_told:
            self._is_speech_told = True
            self._tell(speech)

    def _speech_stopped(self, speech: SpeechStopped) -> None:
        """Told once for each start."""
        if self._is_speech_told:
            self._is_speech_told = False
            self._tell(speech)
            self._transcript.speech_stopped(speech)

    def _overlapped(self, decision: OverlapDecision, reply: Reply | None) -> None:
        is_barge_in = decision.action is OverlapAction.BARGE_IN
        if is_barge_in and decision.reason is OverlapReason.SPEECH and reply is not None:
            self._notes.barged_in(reply, decision.onset_seconds)
        turn = reply.turn if reply else None
        self._tell(ReplyOverlapped(turn, decision, self._replies.num_turns))
        if not self._reports_playback:
            # Such a client is not told to hold, and goes on playing.
            return
        match decision.action:
            case OverlapAction.LISTEN:
                self._playback.hold(decision.seconds)
            case OverlapAction.DROP:
                self._playback.go_on(decision.seconds)
            case OverlapAction.BARGE_IN:
                pass
