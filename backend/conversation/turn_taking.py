"""Whose turn it is: where utterances begin and end, and what a voice over a reply does to it."""

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
from backend.conversation.notes import Notes
from backend.conversation.overlap import OverlapOutcome
from backend.conversation.playback import ClientPlayback
from backend.conversation.replies import Replies, Tell
from backend.conversation.reply import Reply
from backend.conversation.speech_queue import SpeechQueue
from backend.conversation.timeline import Timeline
from backend.conversation.transcript import InputTranscript

LATEST_ACK_SECONDS = 10.0
"""So far ahead of the audio that has come may a client say that it was."""


@dataclass(frozen=True, slots=True)
class TurnTakingState:
    """What another process needs to go on with taking turns."""

    playback: ClientPlayback
    has_audio: bool
    is_speech_told: bool


class TurnTaking:
    """Takes turns between the client's user and the model's replies.

    Args:
        timeline: of the conversation.
        hearing: hears its client.
        replies: of the model.
        speech: says them.
        notes: tells a recording.
        transcript: of what is heard.
        session: of the engine, whose turn may be interrupted.
        tell: is told what happens.
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
        self._hearing.note_reply(self.sounding_reply() is not None)

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
        self._hearing.note_reply(True)

    def sound_begins(self, reply: Reply) -> float:
        """The first sound of a reply is sent; returns from when on it is played.

        Until the client says when it plays this, it is taken to play it as soon as it can.
        """
        now_seconds = self._timeline.now_seconds
        starts_at_seconds = self._playback.sound_arrived(reply, now_seconds)
        if not self._reports_playback or starts_at_seconds == now_seconds:
            self._hearing.reply_played(reply.turn, 0, starts_at_seconds)
        return starts_at_seconds

    def stop(self, reason: CancelReason) -> None:
        """End all that is being said, generated or played."""
        self._speech.stop()
        for reply, played_ms in self._playback.unheard(self._timeline.now_seconds):
            self._notes.cut(reply, played_ms)
        self._playback.stop()
        self._hearing.note_reply(False)
        turn = self._replies.newest_turn
        self._replies.cancel(reason)
        if turn is not None:
            self._session.interrupt(turn)

    def client_interrupts(self) -> None:
        """The client itself has found a voice over the reply."""
        self._tell_outcomes(self._hearing.client_stops(), self.sounding_reply())
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
        self._hearing.reply_played(reply.turn, played_ms, at_seconds)
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
