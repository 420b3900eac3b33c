"""What happens in a conversation, as the messages that tell clients of it."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    RecordingStopped,
    ReplyEnded,
    ReplyOverlapped,
    ReplySound,
    ReplyStarted,
    ReplyText,
    ReplyTruncated,
    SettingsChanged,
    SettingsRefused,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    VoiceFailed,
    VoiceFellBack,
)
from backend.conversation.settings import ConversationSettings
from backend.wires.errors import WireError, conversation_failed
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.items import Items, user_audio_item
from backend.wires.realtime.responses import Responses, decision_metadata
from backend.wires.realtime.server_messages import (
    Capabilities,
    ErrorMessage,
    HeartbeatAck,
    InputCleared,
    InputCommitted,
    Item,
    ItemMessage,
    Metadata,
    Notice,
    OutputCleared,
    OverlapMessage,
    PlaybackAcknowledgedMessage,
    QueueDoneMessage,
    QueueMessage,
    QuietTimeout,
    RecordingStartedMessage,
    RecordingStoppedMessage,
    ResponseListen,
    ResyncRequired,
    ServerMessage,
    SessionClosed,
    SessionCreated,
    SessionExpired,
    SessionGoAway,
    SessionReplaced,
    SessionResumed,
    SessionShown,
    SessionUpdated,
    SpeechStartedMessage,
    SpeechStoppedMessage,
    TurnEvent,
)
from backend.wires.realtime.session import capabilities, session_object
from backend.wires.wire import (
    Beaten,
    MessagesLost,
    Offer,
    Queued,
    QueueDone,
    Refused,
    Replaced,
    Resumed,
    SessionKey,
    SocketEvent,
    new_id,
)


class ServerMessages:
    """Writes the messages of one conversation.

    Args:
        key: takes the conversation up again.
        dialect: which vocabulary the client has asked for.
        offer: what the server has.
        has_older_names: whether the client also waits for `conversation.item.created`.
    """

    def __init__(
        self, key: SessionKey, dialect: Dialect, offer: Offer, has_older_names: bool
    ) -> None:
        self.items = Items()
        self.responses = Responses(self.items, dialect, key.session_id)
        self._key = key
        self._dialect = dialect
        self._offer = offer
        self._has_older_names = has_older_names
        self._utterance_id = new_id("item")
        """Of the item that what is being heard becomes."""
        self._added: dict[str, Item] = {}
        """Items that the conversation is about to hear, by id."""

    @contextmanager
    def adding(self, item: Item) -> Iterator[None]:
        """The client's own item is told when the conversation takes it, while the block runs."""
        self._added[item["id"]] = item
        try:
            yield
        finally:
            del self._added[item["id"]]

    def write(self, event: ConversationEvent | SocketEvent) -> list[ServerMessage]:
        """The messages that tell of what happens, in order."""
        messages = list(self._common(event))
        if self._is_duplex:
            messages += self._duplex(event)
        return messages

    def _common(self, event: ConversationEvent | SocketEvent) -> Iterator[ServerMessage]:
        """What every client is told."""
        match event:
            case ReplyText():
                yield self.responses.text(event)
            case ReplySound():
                yield self.responses.sound(event)
            case ReplyStarted():
                yield from self.responses.start(event)
            case ReplyEnded():
                yield from self.responses.end(event)
            case ReplyTruncated():
                yield self.responses.truncate(event)
            case OutputStopped():
                response_id = "" if event.turn is None else self.responses.response_id(event.turn)
                yield OutputCleared(type="output_audio_buffer.cleared", response_id=response_id)
            case SpeechStarted():
                yield SpeechStartedMessage(
                    type="input_audio_buffer.speech_started",
                    item_id=self._utterance_id,
                    audio_start_ms=round(event.onset_seconds * 1000),
                )
            case SpeechStopped():
                yield SpeechStoppedMessage(
                    type="input_audio_buffer.speech_stopped",
                    item_id=self._utterance_id,
                    audio_end_ms=round(event.end_seconds * 1000),
                )
            case QuietTimedOut():
                yield QuietTimeout(
                    type="input_audio_buffer.timeout_triggered",
                    item_id=self._utterance_id,
                    audio_start_ms=round(event.since_seconds * 1000),
                    audio_end_ms=round(event.at_seconds * 1000),
                )
            case UtteranceEnded():
                yield from self._commit()
            case InputAdded():
                yield from self._add_item(self._added[event.reference])
            case AudioDiscarded():
                yield InputCleared(type="input_audio_buffer.cleared")
            case ConversationOpened():
                yield self._created(event.settings)
            case SettingsChanged():
                session = self._shown(event.settings)
                if self._is_duplex:
                    session["capabilities"] = self._capabilities()
                yield SessionUpdated(type="session.updated", session=session)
            case RecordingStarted():
                yield RecordingStartedMessage(
                    type="recording.started",
                    recording_id=event.recording_id,
                    title=event.title,
                    started_at=event.started_at.isoformat(timespec="seconds"),
                )
            case RecordingStopped():
                yield _recording_stopped(event)
            case SettingsRefused(message, reference):
                yield error_message(WireError(message, "invalid_value", "session", reference))
            case Refused():
                yield error_message(event.error)
            case ConversationFailed():
                yield error_message(conversation_failed(event))
            case ConversationIdled() if not self._is_duplex:
                minutes = event.idle_seconds / 60
                yield error_message(
                    WireError(f"nobody spoke for {minutes:g} minutes", "session_expired")
                )
            case ConversationEnded(EndReason.CLIENT):
                yield SessionClosed(type="session.closed", reason="client_request")
            case Beaten():
                yield HeartbeatAck(type="session.heartbeat_ack")

    def _duplex(self, event: ConversationEvent | SocketEvent) -> Iterator[ServerMessage]:
        """What a client of the full-duplex dialect is told besides."""
        session_id = self._key.session_id
        match event:
            case ChunkDecision(speak=False):
                yield ResponseListen(
                    type="response.listen",
                    session_id=session_id,
                    epoch=event.num_turns,
                    response={
                        "object": "realtime.response",
                        "status": "listening",
                        "metadata": decision_metadata(event),
                    },
                )
            case ReplyOverlapped():
                yield self._overlap(event)
            case PlaybackAcknowledged():
                yield self._played(event)
            case VoiceFellBack():
                yield Notice(type="notice", code="voice_fallback", message=event.reason)
            case VoiceFailed():
                yield Notice(type="notice", code="voice_unavailable", message=event.reason)
            case ContextShortened():
                metadata: Metadata = {
                    "positions_before": event.positions_before,
                    "positions_after": event.positions_after,
                }
                yield self._turn_event(event, "context_rolled", metadata)
            case ActivityResumed():
                yield self._turn_event(event, "activity_resumed", {})
            case IdleSoon():
                left_ms = round(event.seconds_left * 1000)
                yield SessionGoAway(type="session.go_away", reason="idle", time_left_ms=left_ms)
            case ConversationIdled():
                yield SessionExpired(type="session.expired", reason="idle")
            case Queued():
                yield QueueMessage(
                    type="session.queued" if event.is_first else "session.queue_update",
                    ticket_id=event.ticket_id,
                    position=event.standing.position,
                    queue_length=event.standing.queue_length,
                    estimated_wait_s=round(event.standing.estimated_wait_seconds, 1),
                )
            case QueueDone():
                yield QueueDoneMessage(type="session.queue_done", ticket_id=event.ticket_id)
            case Resumed():
                yield SessionResumed(
                    type="session.resumed",
                    session_id=session_id,
                    attachment_generation=event.generation,
                    input_seconds=event.arrived_seconds,
                )
            case MessagesLost():
                yield ResyncRequired(
                    type="session.resync_required",
                    reason="events_lost",
                    session_id=session_id,
                    num_events_lost=event.num_lost,
                )
            case Replaced():
                yield SessionReplaced(type="session.replaced", session_id=session_id)

    def _created(self, settings: ConversationSettings) -> SessionCreated:
        session = self._shown(settings)
        created = SessionCreated(type="session.created", session=session)
        if self._is_duplex:
            session["capabilities"] = self._capabilities()
            created["resume_token"] = self._key.resume_token
            created["attachment_generation"] = 1
        return created

    def _shown(self, settings: ConversationSettings) -> SessionShown:
        formats, session_id = self.responses.formats, self._key.session_id
        return session_object(settings, formats, session_id, self._offer.model)

    def _capabilities(self) -> Capabilities:
        return capabilities(self._offer.voices.catalogue(), self._offer.max_positions)

    def _commit(self) -> Iterator[ServerMessage]:
        """What has been heard since the last item becomes the user's next item."""
        item = user_audio_item(self._utterance_id)
        self._utterance_id = new_id("item")
        previous = self.items.add(item)
        yield InputCommitted(
            type="input_audio_buffer.committed", item_id=item["id"], previous_item_id=previous
        )
        yield ItemMessage(type="conversation.item.added", item=item, previous_item_id=previous)
        yield ItemMessage(type="conversation.item.done", item=item, previous_item_id=previous)

    def _add_item(self, item: Item) -> Iterator[ServerMessage]:
        """The client's own item becomes the next one."""
        previous = self.items.add(item)
        yield ItemMessage(type="conversation.item.added", item=item, previous_item_id=previous)
        if self._has_older_names:
            yield ItemMessage(
                type="conversation.item.created", item=item, previous_item_id=previous
            )
        yield ItemMessage(type="conversation.item.done", item=item, previous_item_id=previous)

    def _overlap(self, overlapped: ReplyOverlapped) -> OverlapMessage:
        decision, turn = overlapped.decision, overlapped.turn
        return OverlapMessage(
            type="overlap.decision",
            session_id=self._key.session_id,
            epoch=overlapped.num_turns,
            policy="voice_activity",
            action=decision.action.value,
            reason=decision.reason.value,
            metadata={
                "response_id": None if turn is None else self.responses.response_id(turn),
                "onset_seconds": round(decision.onset_seconds, 3),
                "seconds": round(decision.seconds, 3),
            },
        )

    def _played(self, acknowledged: PlaybackAcknowledged) -> PlaybackAcknowledgedMessage:
        ids = self.responses.part_ids(acknowledged.turn)
        generated_ms = round(acknowledged.generated_ms, 1)
        return PlaybackAcknowledgedMessage(
            type="playback.acknowledged",
            response_id=ids["response_id"],
            item_id=ids["item_id"],
            event={
                "playback": {
                    "generated_ms": generated_ms,
                    "sent_ms": generated_ms,
                    "played_ms": acknowledged.played_ms,
                    "committed_ms": acknowledged.played_ms,
                },
                "history_committed": False,
            },
        )

    def _turn_event(
        self, event: ContextShortened | ActivityResumed, name: str, metadata: Metadata
    ) -> TurnEvent:
        return TurnEvent(
            type="turn.event",
            session_id=self._key.session_id,
            epoch=event.num_turns,
            event=name,
            turn_state="speaking" if event.is_replying else "listening",
            metadata=metadata,
        )

    @property
    def _is_duplex(self) -> bool:
        return self._dialect is Dialect.DUPLEX


def error_message(error: WireError) -> ErrorMessage:
    """`error`: never a warning, many clients end on it."""
    return ErrorMessage(
        type="error",
        error={
            "type": error.error_type.value,
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "event_id": error.event_id,
        },
    )


def _recording_stopped(stopped: RecordingStopped) -> RecordingStoppedMessage:
    message = RecordingStoppedMessage(
        type="recording.stopped",
        recording_id=stopped.recording_id,
        seconds=stopped.seconds,
        bytes=stopped.num_bytes,
        reason=stopped.reason.value,
    )
    if stopped.message is not None:
        message["message"] = stopped.message
    return message
