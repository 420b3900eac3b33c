"""What happens in a conversation, as the messages that tell clients of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backend.conversation.events import (
    ActivityResumed,
    AudioDiscarded,
    ChunkDecision,
    ContextShortened,
    ConversationEnded,
    ConversationEvent,
    ConversationFailed,
    ConversationIdled,
    ConversationOpened,
    EndReason,
    IdleSoon,
    InputAdded,
    OutputStopped,
    PlaybackAcknowledged,
    QuietTimedOut,
    RecordingStarted,
    ReplyEnded,
    ReplyOverlapped,
    ReplySound,
    ReplyStarted,
    ReplyText,
    ReplyTruncated,
    ReplyWithheld,
    SettingsChanged,
    SettingsRefused,
    SpeechHeard,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    UtteranceHeard,
    VoiceFailed,
    VoiceFellBack,
    WordsHeard,
)
from backend.conversation.settings import NO_TURNS, ConversationSettings
from backend.recordings.live import RecordingStopped
from backend.wires.errors import WireError
from backend.wires.realtime.items import HeardItems, Items, user_audio_item
from backend.wires.realtime.responses import Responses, decision_metadata
from backend.wires.realtime.session import Dialect, WireSettings, capabilities, session_object
from backend.wires.wire import (
    Beaten,
    Fields,
    MessagesLost,
    Offer,
    Queued,
    QueueDone,
    Refused,
    Replaced,
    Resumed,
    SessionKey,
    SocketEvent,
    error_of,
)


class ServerMessages:
    """Writes the messages of one conversation.

    Args:
        has_older_names: whether the client also waits for `conversation.item.created`.
    """

    def __init__(
        self, key: SessionKey, dialect: Dialect, offer: Offer, has_older_names: bool
    ) -> None:
        self.items = Items()
        self.responses = Responses(self.items, dialect, key.session_id)
        self.settings = WireSettings()
        """In force."""
        self.key = key
        """Takes the conversation up again."""
        self._is_duplex = dialect is Dialect.DUPLEX
        self._offer = offer
        self._has_older_names = has_older_names
        self._heard_items = HeardItems(offer.hears_words)
        self._commits_speech = False
        """Whether each speech becomes an item, and not what a reply or the client ends."""
        self._added: dict[str, Fields] = {}
        """Items that the conversation is about to hear, by id."""

    def state(self) -> dict[str, Any]:
        """What another process needs to go on with them."""
        here = ("_offer", "_added")
        return {name: value for name, value in vars(self).items() if name not in here}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a state of another process's."""
        vars(self).update(state)

    @contextmanager
    def adding(self, item: Fields) -> Iterator[None]:
        """The client's own item is told when the conversation takes it, while the block runs."""
        self._added[item["id"]] = item
        try:
            yield
        finally:
            del self._added[item["id"]]

    def write(self, event: ConversationEvent | SocketEvent) -> list[Fields]:
        """The messages that tell of what happens, in order."""
        messages = list(self._common(event))
        if self._is_duplex:
            messages += self._duplex(event)
        return messages

    def _common(self, event: ConversationEvent | SocketEvent) -> Iterator[Fields]:
        """What every client is told."""
        match event:
            case ReplyText():
                yield self.responses.text(event)
            case ReplySound():
                yield self.responses.sound(event)
            case ReplyStarted():
                yield from self.responses.start(event, self.settings.output)
            case ReplyEnded():
                yield from self.responses.end(event)
            case ReplyTruncated():
                yield self.responses.truncate(event)
            case ReplyWithheld():
                yield from self.responses.withhold(event)
            case OutputStopped(turn):
                response_id = "" if turn is None else self.responses.response_id(turn)
                yield {"type": "output_audio_buffer.cleared", "response_id": response_id}
            case SpeechStarted():
                yield {
                    "type": "input_audio_buffer.speech_started",
                    "item_id": self._heard_items.item_id,
                    "audio_start_ms": round(event.onset_seconds * 1000),
                }
            case SpeechStopped():
                yield {
                    "type": "input_audio_buffer.speech_stopped",
                    "item_id": self._heard_items.item_id,
                    "audio_end_ms": round(event.end_seconds * 1000),
                }
                if self._commits_speech:
                    yield from self._commit(SpeechHeard)
            case QuietTimedOut():
                yield {
                    "type": "input_audio_buffer.timeout_triggered",
                    "item_id": self._heard_items.item_id,
                    "audio_start_ms": round(event.since_seconds * 1000),
                    "audio_end_ms": round(event.at_seconds * 1000),
                }
            case UtteranceEnded():
                yield from self._commit(UtteranceHeard)
            case ChunkDecision():
                self._heard_items.decided_seconds = event.seconds
            case WordsHeard():
                delta = self._heard_items.hear(event)
                if self.settings.is_transcribed:
                    yield delta
            case SpeechHeard() | UtteranceHeard():
                completed = self._heard_items.complete(event)
                if completed is not None and self.settings.is_transcribed:
                    self.items.change(
                        user_audio_item(completed["item_id"], completed["transcript"])
                    )
                    yield completed
            case InputAdded():
                yield from self._add_item(self._added[event.reference])
            case AudioDiscarded():
                yield {"type": "input_audio_buffer.cleared"}
            case ConversationOpened():
                self._follow(event.settings)
                yield self._created(event.settings)
            case SettingsChanged():
                self._follow(event.settings)
                yield {"type": "session.updated", "session": self._session(event.settings)}
            case RecordingStarted():
                yield {
                    "type": "recording.started",
                    "recording_id": event.recording_id,
                    "title": event.title,
                    "started_at": event.started_at.isoformat(timespec="seconds"),
                }
            case RecordingStopped():
                yield _recording_stopped(event)
            case ConversationIdled() if self._is_duplex:
                yield {"type": "session.expired", "reason": "idle"}
            case Refused() | SettingsRefused() | ConversationFailed() | ConversationIdled():
                yield error_message(error_of(event))
            case ConversationEnded(EndReason.CLIENT):
                yield {"type": "session.closed", "reason": "client_request"}
            case Beaten():
                yield {"type": "session.heartbeat_ack"}

    def _duplex(self, event: ConversationEvent | SocketEvent) -> Iterator[Fields]:
        """What a client of the full-duplex dialect is told besides."""
        session_id = self.key.session_id
        match event:
            case ChunkDecision(speak=False):
                yield {
                    "type": "response.listen",
                    "session_id": session_id,
                    "epoch": event.num_turns,
                    "response": {
                        "object": "realtime.response",
                        "status": "listening",
                        "metadata": decision_metadata(event),
                    },
                }
            case ReplyOverlapped():
                yield self._overlap(event)
            case PlaybackAcknowledged():
                yield self._played(event)
            case VoiceFellBack(reason):
                yield {"type": "notice", "code": "voice_fallback", "message": reason}
            case VoiceFailed(reason):
                yield {"type": "notice", "code": "voice_unavailable", "message": reason}
            case ContextShortened():
                metadata = {
                    "positions_before": event.positions_before,
                    "positions_after": event.positions_after,
                }
                yield self._turn_event(event, "context_rolled", metadata)
            case ActivityResumed():
                yield self._turn_event(event, "activity_resumed", {})
            case IdleSoon():
                left_ms = round(event.seconds_left * 1000)
                yield {"type": "session.go_away", "reason": "idle", "time_left_ms": left_ms}
            case Queued():
                yield {
                    "type": "session.queued" if event.is_first else "session.queue_update",
                    "ticket_id": event.ticket_id,
                    "position": event.standing.position,
                    "queue_length": event.standing.queue_length,
                    "estimated_wait_s": round(event.standing.estimated_wait_seconds, 1),
                }
            case QueueDone():
                yield {"type": "session.queue_done", "ticket_id": event.ticket_id}
            case Resumed():
                yield {
                    "type": "session.resumed",
                    "session_id": session_id,
                    "attachment_generation": event.generation,
                    "input_seconds": event.arrived_seconds,
                }
            case MessagesLost():
                yield {
                    "type": "session.resync_required",
                    "reason": "events_lost",
                    "session_id": session_id,
                    "num_events_lost": event.num_lost,
                }
            case Replaced():
                yield {"type": "session.replaced", "session_id": session_id}

    def _follow(self, settings: ConversationSettings) -> None:
        has_turns = settings.turns != NO_TURNS
        self._commits_speech = self.settings.is_transcription and has_turns

    def _created(self, settings: ConversationSettings) -> Fields:
        created: Fields = {"type": "session.created", "session": self._session(settings)}
        if self._is_duplex:
            created |= {"resume_token": self.key.resume_token, "attachment_generation": 1}
        return created

    def _session(self, settings: ConversationSettings) -> Fields:
        session = session_object(settings, self.settings, self.key.session_id, self._offer.model)
        return session | ({"capabilities": capabilities(self._offer)} if self._is_duplex else {})

    def _commit(self, heard_by: type[SpeechHeard | UtteranceHeard]) -> Iterator[Fields]:
        """What has been heard since the last item becomes the user's next item."""
        item = user_audio_item(self._heard_items.commit(heard_by))
        names = {"previous_item_id": self.items.add(item)}
        yield {"type": "input_audio_buffer.committed", "item_id": item["id"], **names}
        yield {"type": "conversation.item.added", "item": item, **names}
        yield {"type": "conversation.item.done", "item": item, **names}

    def _add_item(self, item: Fields) -> Iterator[Fields]:
        """The client's own item becomes the next one."""
        told = {"item": item, "previous_item_id": self.items.add(item)}
        yield {"type": "conversation.item.added", **told}
        if self._has_older_names:
            yield {"type": "conversation.item.created", **told}
        yield {"type": "conversation.item.done", **told}

    def _overlap(self, overlapped: ReplyOverlapped) -> Fields:
        decision, turn = overlapped.decision, overlapped.turn
        return {
            "type": "overlap.decision",
            "session_id": self.key.session_id,
            "epoch": overlapped.num_turns,
            "policy": "voice_activity",
            "action": decision.action.value,
            "reason": decision.reason.value,
            "metadata": {
                "response_id": None if turn is None else self.responses.response_id(turn),
                "onset_seconds": round(decision.onset_seconds, 3),
                "seconds": round(decision.seconds, 3),
            },
        }

    def _played(self, acknowledged: PlaybackAcknowledged) -> Fields:
        generated_ms = round(acknowledged.generated_ms, 1)
        return {
            "type": "playback.acknowledged",
            "response_id": self.responses.response_id(acknowledged.turn),
            "item_id": self.responses.item_id(acknowledged.turn),
            "event": {
                "playback": {
                    "generated_ms": generated_ms,
                    "sent_ms": generated_ms,
                    "played_ms": acknowledged.played_ms,
                    "committed_ms": acknowledged.played_ms,
                },
                "history_committed": False,
            },
        }

    def _turn_event(
        self, event: ContextShortened | ActivityResumed, name: str, metadata: Fields
    ) -> Fields:
        return {
            "type": "turn.event",
            "session_id": self.key.session_id,
            "epoch": event.num_turns,
            "event": name,
            "turn_state": "speaking" if event.is_replying else "listening",
            "metadata": metadata,
        }


def error_message(error: WireError) -> Fields:
    """`error`: never a warning, many clients end on it."""
    return {"type": "error", "error": {**error.fields(), "event_id": error.event_id}}


def _recording_stopped(stopped: RecordingStopped) -> Fields:
    message: Fields = {
        "type": "recording.stopped",
        "recording_id": stopped.recording_id,
        "seconds": stopped.seconds,
        "bytes": stopped.num_bytes,
        "reason": stopped.reason.value,
    }
    return message if stopped.message is None else message | {"message": stopped.message}
