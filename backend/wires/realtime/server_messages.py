"""What the server tells clients: the server events of the OpenAI Realtime API as JSON objects.

Each is a type of its own, and all have an `event_id` besides, which they get as they are sent.
"""

from typing import Any, Literal, NotRequired, TypedDict

from backend.conversation.settings import Modality

ResponseStatus = Literal["in_progress", "completed", "cancelled", "incomplete"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
Metadata = dict[str, Any]
"""Numbers and words that clients may show."""


# What the messages hold.


class Error(TypedDict):
    """What a client did that cannot be."""

    type: str
    code: str
    message: str
    param: str | None
    event_id: str | None


class AudioFormatShown(TypedDict):
    """How audio is encoded."""

    type: str
    rate: int


class TurnDetectionShown(TypedDict):
    """How turns begin."""

    type: str
    create_response: bool
    interrupt_response: bool
    eagerness: NotRequired[str]
    idle_timeout_ms: NotRequired[int]


class AudioInputShown(TypedDict):
    """The client's audio."""

    format: AudioFormatShown
    transcription: None
    noise_reduction: None
    turn_detection: TurnDetectionShown | None


class AudioOutputShown(TypedDict):
    """The server's audio."""

    format: AudioFormatShown
    voice: str
    speed: float


class AudioShown(TypedDict):
    """Both."""

    input: AudioInputShown
    output: AudioOutputShown


class Capabilities(TypedDict):
    """What a client of the full-duplex dialect may adapt to."""

    chunk_period_ms: int
    max_positions: int
    voices: list[dict[str, Any]]
    supports_audio_output: bool
    supports_barge_in: bool
    supports_decision_bias: bool
    supports_playback_ack: bool
    supports_resume: bool
    supports_text_input: bool


class SessionShown(TypedDict):
    """The whole configuration that is in force."""

    type: Literal["realtime"]
    object: Literal["realtime.session"]
    id: str
    model: str
    output_modalities: list[Modality]
    instructions: str
    max_output_tokens: int
    temperature: float
    top_k: int
    seed: int
    decision_bias: float
    tools: list[Any]
    tool_choice: str
    audio: AudioShown
    capabilities: NotRequired[Capabilities]


Content = dict[str, str | None]
"""A part of an item, or of a reply that is told."""


class Item(TypedDict):
    """What was said, by the user or the model."""

    id: str
    object: Literal["realtime.item"]
    type: Literal["message"]
    status: ItemStatus
    role: str
    content: list[Content]


class StatusDetails(TypedDict):
    """Why a response was not completed."""

    type: ResponseStatus
    reason: str


class InputTokens(TypedDict):
    """What the model had taken in when it began to reply; all of it is what was heard."""

    text_tokens: int
    audio_tokens: int
    cached_tokens: int


class OutputTokens(TypedDict):
    """What it said; a voice of another's makes sound of that."""

    text_tokens: int
    audio_tokens: int


class Usage(TypedDict):
    """What a reply took, in positions of the model's context."""

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_token_details: InputTokens
    output_token_details: OutputTokens


class Response(TypedDict):
    """A reply."""

    id: str
    object: Literal["realtime.response"]
    status: ResponseStatus
    status_details: StatusDetails | None
    output: list[Item]
    output_modalities: list[Modality]
    metadata: dict[str, str]
    usage: Usage | None
    """Once it has ended."""


class Listening(TypedDict):
    """What stands where a response would, when the model keeps silent."""

    object: Literal["realtime.response"]
    status: Literal["listening"]
    metadata: Metadata


class PlaybackPosition(TypedDict):
    """How far a reply has come."""

    generated_ms: float
    sent_ms: float
    played_ms: float
    committed_ms: float


class PlaybackTold(TypedDict):
    """What a client has told of its playback."""

    playback: PlaybackPosition
    history_committed: bool


# The messages.


class ErrorMessage(TypedDict):
    """Never a warning: many clients end on it."""

    type: Literal["error"]
    error: Error


class SessionCreated(TypedDict):
    """The conversation begins; a client of the full-duplex dialect may take it up again."""

    type: Literal["session.created"]
    session: SessionShown
    resume_token: NotRequired[str]
    attachment_generation: NotRequired[int]


class SessionUpdated(TypedDict):
    """Other settings are in force."""

    type: Literal["session.updated"]
    session: SessionShown


class SpeechStartedMessage(TypedDict):
    """Speech was heard."""

    type: Literal["input_audio_buffer.speech_started"]
    item_id: str
    audio_start_ms: int


class SpeechStoppedMessage(TypedDict):
    """It has ended."""

    type: Literal["input_audio_buffer.speech_stopped"]
    item_id: str
    audio_end_ms: int


class QuietTimeout(TypedDict):
    """All was quiet for so long after a reply that another one is asked for."""

    type: Literal["input_audio_buffer.timeout_triggered"]
    item_id: str
    audio_start_ms: int
    audio_end_ms: int


class InputCommitted(TypedDict):
    """What was heard is an item."""

    type: Literal["input_audio_buffer.committed"]
    item_id: str
    previous_item_id: str | None


class InputCleared(TypedDict):
    """What did not fill a chunk is forgotten."""

    type: Literal["input_audio_buffer.cleared"]


class ItemMessage(TypedDict):
    """An item is there, or complete."""

    type: Literal["conversation.item.added", "conversation.item.created", "conversation.item.done"]
    item: Item
    previous_item_id: NotRequired[str | None]


class ItemRetrieved(TypedDict):
    """An item that was asked for."""

    type: Literal["conversation.item.retrieved"]
    item: Item


class ItemTruncated(TypedDict):
    """Of a spoken reply only the beginning was heard."""

    type: Literal["conversation.item.truncated"]
    item_id: str
    content_index: int
    audio_end_ms: int


class ResponseMessage(TypedDict):
    """A reply begins or ends."""

    type: Literal["response.created", "response.done"]
    response: Response


class PartIds(TypedDict):
    """What names the only content part of a reply."""

    response_id: str
    item_id: str
    output_index: int
    content_index: int


class OutputItemMessage(TypedDict):
    """The item of a reply is there, or complete."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    response_id: str
    output_index: int
    item: Item


class ContentPartMessage(PartIds):
    """Its content is there, or complete."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Content


class DeltaMessage(PartIds):
    """More text of a reply."""

    type: Literal["response.output_text.delta", "response.output_audio_transcript.delta"]
    delta: str


class TextDone(PartIds):
    """The whole text of a written reply."""

    type: Literal["response.output_text.done"]
    text: str


class TranscriptDone(PartIds):
    """The whole text of a spoken reply."""

    type: Literal["response.output_audio_transcript.done"]
    transcript: str


class AudioDelta(PartIds):
    """More sound of a reply; the full-duplex dialect says what it is."""

    type: Literal["response.output_audio.delta"]
    delta: str
    sample_rate_hz: NotRequired[int]
    audio_start_ms: NotRequired[float]
    sentence: NotRequired[str]


class AudioDone(PartIds):
    """All of its sound."""

    type: Literal["response.output_audio.done"]


class OutputCleared(TypedDict):
    """Nothing is said any more."""

    type: Literal["output_audio_buffer.cleared"]
    response_id: str


class RecordingStartedMessage(TypedDict):
    """What is said from here on is recorded."""

    type: Literal["recording.started"]
    recording_id: str
    title: str
    started_at: str


class RecordingStoppedMessage(TypedDict):
    """Nothing is recorded any more."""

    type: Literal["recording.stopped"]
    recording_id: str
    seconds: float
    bytes: int | None
    reason: str
    message: NotRequired[str]


class SessionClosed(TypedDict):
    """The conversation has ended, as the client asked."""

    type: Literal["session.closed"]
    reason: str


class HeartbeatAck(TypedDict):
    """The server is there."""

    type: Literal["session.heartbeat_ack"]


# The rest is of the full-duplex dialect.


class ResponseListen(TypedDict):
    """The model heard a chunk and keeps silent."""

    type: Literal["response.listen"]
    session_id: str
    epoch: int
    response: Listening


class ResponseSpeak(PartIds):
    """The model heard a chunk and speaks."""

    type: Literal["response.speak"]
    session_id: str
    epoch: int
    metadata: Metadata


class OverlapMessage(TypedDict):
    """What was made of a voice over a reply."""

    type: Literal["overlap.decision"]
    session_id: str
    epoch: int
    policy: str
    action: str
    reason: str
    metadata: Metadata


class PlaybackAcknowledgedMessage(TypedDict):
    """It is known how much was played."""

    type: Literal["playback.acknowledged"]
    response_id: str
    item_id: str
    event: PlaybackTold


class TurnEvent(TypedDict):
    """Something about the conversation as a whole."""

    type: Literal["turn.event"]
    session_id: str
    epoch: int
    event: str
    turn_state: str
    metadata: Metadata


class Notice(TypedDict):
    """Something to know that is no error."""

    type: Literal["notice"]
    code: str
    message: str


class SessionGoAway(TypedDict):
    """The conversation will end."""

    type: Literal["session.go_away"]
    reason: str
    time_left_ms: int


class SessionExpired(TypedDict):
    """It has."""

    type: Literal["session.expired"]
    reason: str


class QueueMessage(TypedDict):
    """The client waits in line."""

    type: Literal["session.queued", "session.queue_update"]
    ticket_id: str
    position: int
    queue_length: int
    estimated_wait_s: float


class QueueDoneMessage(TypedDict):
    """The wait is over."""

    type: Literal["session.queue_done"]
    ticket_id: str


class SessionResumed(TypedDict):
    """The socket has taken up a conversation."""

    type: Literal["session.resumed"]
    session_id: str
    attachment_generation: int
    input_seconds: float


class ResyncRequired(TypedDict):
    """Some messages that have not arrived are not kept any more."""

    type: Literal["session.resync_required"]
    reason: str
    session_id: str
    num_events_lost: int


class SessionReplaced(TypedDict):
    """Another socket has taken up the conversation."""

    type: Literal["session.replaced"]
    session_id: str


ServerMessage = (
    ErrorMessage
    | SessionCreated
    | SessionUpdated
    | SpeechStartedMessage
    | SpeechStoppedMessage
    | QuietTimeout
    | InputCommitted
    | InputCleared
    | ItemMessage
    | ItemRetrieved
    | ItemTruncated
    | ResponseMessage
    | OutputItemMessage
    | ContentPartMessage
    | DeltaMessage
    | TextDone
    | TranscriptDone
    | AudioDelta
    | AudioDone
    | OutputCleared
    | RecordingStartedMessage
    | RecordingStoppedMessage
    | SessionClosed
    | HeartbeatAck
    | ResponseListen
    | ResponseSpeak
    | OverlapMessage
    | PlaybackAcknowledgedMessage
    | TurnEvent
    | Notice
    | SessionGoAway
    | SessionExpired
    | QueueMessage
    | QueueDoneMessage
    | SessionResumed
    | ResyncRequired
    | SessionReplaced
)
