"""Who speaks: the model's replies with their sound, and the voices over them."""

from collections.abc import Callable, Iterable

from backend.audio import Samples
from backend.conversation.hearing import Hearing
from backend.conversation.notes import Notes
from backend.conversation.overlap import (
    OverlapAction,
    OverlapDecision,
    OverlapOutcome,
    OverlapReason,
)
from backend.conversation.playback import Playback
from backend.conversation.reply import CancelReason, Reply
from backend.conversation.settings import ConversationSettings
from backend.conversation.speech_queue import (
    ReplySpoken,
    SpeechQueue,
    SpeechQueueEvent,
    VoiceFailed,
)
from backend.conversation.voice_activity import SpeechStarted, SpeechStopped
from backend.events import Event, TextDelta, TurnDone, TurnStarted
from backend.speech import SpokenPiece, TextLeaves, VoiceFallback, Voices
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import PlaybackAck, TruncateItem
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.server_messages import WireEvent, wire_event
from backend.wires.realtime.translator import Translator

Put = Callable[[Iterable[WireEvent]], None]

LATEST_ACK_SECONDS = 10.0
"""So far ahead of the audio that has come may a client say that it was."""


class TurnTaking:
    """Gives replies a voice, and stops them when somebody speaks over them.

    Args:
        translator: the conversation as its client sees it.
        voices: those of the server.
        config: what is in force.
        put: tells the client.
        interrupt: stops the model's turn with this number, if it is at that one.
        notes: tells a recording.
    """

    def __init__(
        self,
        translator: Translator,
        dialect: Dialect,
        session_id: str,
        voices: Voices,
        config: ConversationSettings,
        put: Put,
        interrupt: Callable[[int], None],
        notes: Notes,
    ) -> None:
        self._translator = translator
        self._dialect = dialect
        self._session_id = session_id
        self._put = put
        self._interrupt = interrupt
        self._notes = notes
        self._speech = SpeechQueue(voices)
        self._hearing = Hearing()
        self._playback = Playback()
        self._has_told_of_fallback = False
        self.configure(config)

    def configure(self, config: ConversationSettings) -> None:
        """What is in force has changed: for the replies that come."""
        self._config = config
        self._translator.modality = config.modality
        self._hearing.let_interrupt(config.turn_taking.interrupt_response)

    def hear(self, samples: Samples) -> bool:
        """More of the client's audio `[n]` at 16 kHz; returns whether somebody began to speak."""
        reply = self._sounding_reply()
        outcomes = self._hearing.hear(samples, reply is not None)
        self._follow(outcomes, reply, CancelReason.TURN_DETECTED)
        return any(isinstance(outcome, SpeechStarted) for outcome in outcomes)

    def chunk_for_model(self, chunk: Samples, end_seconds: float) -> Samples:
        """What the model is to hear of the chunk `[6400]` that ends there in the client's audio."""
        return self._hearing.without_echo(chunk, end_seconds)

    def speech_end_before(self, seconds: float) -> float | None:
        """Where the speech ended that a reply to the client's audio up to there answers."""
        return self._hearing.speech_end_before(seconds)

    def happened(self, event: Event) -> None:
        """The engine tells of the conversation."""
        self._put(self._translator.translate(event))
        reply = self._translator.newest_reply
        match event:
            case TurnStarted() if reply is not None and reply.cancel_reason is not None:
                self._interrupt(event.turn)
            case TurnStarted() if reply is not None and reply.modality == "audio":
                self._begin(reply, event)
            case TextDelta() if reply is not None:
                self._speech.say(reply, event.delta)
            case TurnDone() if reply is not None:
                self._speech.finish(reply)
                self._notes.written(reply)

    async def speak(self) -> None:
        """Say replies aloud, for as long as the conversation goes on."""
        async for reply, event in self._speech.sounds():
            self._sound(reply, event)

    def stop(self, reason: CancelReason) -> None:
        """End all that is being said, generated or played."""
        self._speech.stop()
        for reply, played_ms in self._playback.unheard(self._hearing.heard_seconds):
            self._notes.cut(reply, played_ms)
        self._playback.stop()
        self._hearing.note_reply(False)
        turn = self._translator.newest_turn
        self._put(self._translator.cancel(reason))
        if turn is not None:
            self._interrupt(turn)

    def client_barges_in(self) -> None:
        """The client itself stops the reply."""
        self._follow(self._hearing.client_stops(), self._sounding_reply(), CancelReason.CLIENT)
        self.stop(CancelReason.CLIENT)

    def clear_output(self) -> None:
        """Stop what is being said, as clients ask for that play nothing themselves."""
        reply = self._sounding_reply() or self._translator.newest_reply
        self.stop(CancelReason.CLIENT)
        response_id = reply.response_id if reply else ""
        self._put([wire_event("output_audio_buffer.cleared", response_id=response_id)])

    def truncate(self, event: TruncateItem) -> None:
        """Of a spoken reply, only what was heard stays in the conversation; it ends if it goes on.

        Raises:
            WireError: there is no such item, or it is no spoken reply of late.
        """
        self._translator.items.find(event.item_id)
        reply = self._translator.find_reply(None, event.item_id)
        if reply is None or reply.modality != "audio":
            raise WireError(
                "only a spoken reply of late can be truncated", "invalid_value", "item_id"
            )
        if reply.response_id == self._translator.response_id:
            # Nothing that comes after would be heard.
            self.stop(CancelReason.CLIENT)
        reply.truncate(event.audio_end_ms)
        self._notes.cut(reply, event.audio_end_ms)
        self._translator.items.change(reply.lasting_item())
        self._playback.forget(reply)
        self._put(
            [
                wire_event(
                    "conversation.item.truncated",
                    item_id=event.item_id,
                    content_index=event.content_index,
                    audio_end_ms=event.audio_end_ms,
                )
            ]
        )

    def acknowledge(self, event: PlaybackAck) -> None:
        """The client says how much of a reply was heard.

        Raises:
            WireError: there is no such reply, or it is long ago.
        """
        reply = self._translator.find_reply(event.response_id, event.item_id)
        if reply is None:
            raise WireError("there is no such reply of late", "response_not_found", "response_id")
        at_seconds = event.audio_seconds
        if at_seconds is None:
            at_seconds = self._hearing.heard_seconds
        # What it has captured and not sent yet is seconds at most.
        known_seconds = min(at_seconds, self._hearing.heard_seconds + LATEST_ACK_SECONDS)
        self._notes.acknowledged(reply, event.played_ms, known_seconds)
        self._playback.acknowledge(reply, event.played_ms, at_seconds)
        self._hearing.reply_played(reply.response_id, event.played_ms, at_seconds)
        if self._dialect is Dialect.DUPLEX:
            self._put([_acknowledged(reply, event.played_ms)])

    def _begin(self, reply: Reply, started: TurnStarted) -> None:
        self._speech.begin(reply, self._config.voice, started.emotion, self._config.speed)
        self._playback.reply_started(reply, self._hearing.heard_seconds)
        self._hearing.note_reply(True)

    def _sound(self, reply: Reply, event: SpeechQueueEvent) -> None:
        match event:
            case SpokenPiece():
                self._hearing.reply_sounds(reply.response_id, event.pcm)
                starts_at_seconds = self._first_sound(reply) if event.start_ms == 0 else None
                self._put(self._translator.sound(reply, event))
                if reply.cancel_reason is None:
                    self._notes.sounds(reply, event, starts_at_seconds)
            case TextLeaves():
                reply.text_leaves(event.voice_id)
                self._notes.text_leaves(reply, event.voice_id)
            case VoiceFallback():
                if not self._has_told_of_fallback:
                    self._notice("voice_fallback", event.reason)
                self._has_told_of_fallback = True
            case VoiceFailed():
                self._notice("voice_unavailable", event.reason)
            case ReplySpoken():
                self._put(self._translator.spoken(reply, event.voice_id))

    def _first_sound(self, reply: Reply) -> float:
        """Until the client says when it plays this, it is taken to play it as soon as it can."""
        now_seconds = self._hearing.heard_seconds
        starts_at_seconds = self._playback.sound_arrived(reply, now_seconds)
        if self._dialect is Dialect.REALTIME or starts_at_seconds == now_seconds:
            self._hearing.reply_played(reply.response_id, 0, starts_at_seconds)
        return starts_at_seconds

    def _follow(
        self, outcomes: list[OverlapOutcome], reply: Reply | None, reason: CancelReason
    ) -> None:
        """Tell what was made of a voice; then stop the reply if that follows."""
        is_stopped = False
        for outcome in outcomes:
            match outcome:
                case SpeechStarted():
                    self._put(self._translator.speech_started(outcome.onset_seconds))
                case SpeechStopped():
                    self._put(self._translator.speech_stopped(outcome.end_seconds))
                case OverlapDecision():
                    is_stopped = is_stopped or outcome.action is OverlapAction.BARGE_IN
                    if _is_voice(outcome) and reply is not None:
                        self._notes.barged_in(reply, outcome.onset_seconds)
                    # Others are not told to hold, and go on playing.
                    if self._dialect is Dialect.DUPLEX:
                        self._put([self._overlap(outcome, reply)])
                        self._note_hold(outcome)
        if is_stopped:
            self.stop(reason)

    def _note_hold(self, decision: OverlapDecision) -> None:
        match decision.action:
            case OverlapAction.LISTEN:
                self._playback.hold(decision.seconds)
            case OverlapAction.DROP:
                self._playback.go_on(decision.seconds)
            case OverlapAction.BARGE_IN:
                pass

    def _sounding_reply(self) -> Reply | None:
        return self._playback.current(self._hearing.heard_seconds)

    def _overlap(self, decision: OverlapDecision, reply: Reply | None) -> WireEvent:
        return wire_event(
            "overlap.decision",
            session_id=self._session_id,
            epoch=self._translator.epoch,
            policy="voice_activity",
            action=decision.action.value,
            reason=decision.reason.value,
            metadata={
                "response_id": reply.response_id if reply else None,
                "onset_seconds": round(decision.onset_seconds, 3),
                "seconds": round(decision.seconds, 3),
            },
        )

    def _notice(self, code: str, message: str) -> None:
        if self._dialect is Dialect.DUPLEX:
            self._put([wire_event("notice", code=code, message=message)])


def _is_voice(decision: OverlapDecision) -> bool:
    """Whether somebody's voice stops the reply."""
    by_voice = decision.reason is OverlapReason.SPEECH
    return decision.action is OverlapAction.BARGE_IN and by_voice


def _acknowledged(reply: Reply, played_ms: float) -> WireEvent:
    audio_ms = round(reply.audio_ms, 1)
    return wire_event(
        "playback.acknowledged",
        response_id=reply.response_id,
        item_id=reply.item_id,
        event={
            "playback": {
                "generated_ms": audio_ms,
                "sent_ms": audio_ms,
                "played_ms": played_ms,
                "committed_ms": played_ms,
            },
            "history_committed": False,
        },
    )
