"""The OpenAI Realtime API and its full-duplex dialect, as a wire: messages in and out."""

import pickle
from dataclasses import replace

from typing_extensions import override

from backend.config import SPEECH_RATE_HZ
from backend.conversation.commands import (
    AcknowledgePlayback,
    AddInput,
    CancelReply,
    ChangeSettings,
    HearAudio,
    RequestReply,
    TruncateReply,
)
from backend.conversation.conversation import Conversation
from backend.conversation.events import ConversationEvent
from backend.conversation.settings import ConversationSettings, SettingsPatch
from backend.errors import AudioInteractionError
from backend.wires.audio_formats import WireFormat
from backend.wires.errors import WireError
from backend.wires.json_messages import decoded_base64, parse_event
from backend.wires.realtime.client_messages import (
    MODELS,
    PLAIN_EVENTS,
    AckEvent,
    AppendAudio,
    CancelResponse,
    CloseSession,
    ConversationMessage,
    CreateItem,
    CreateResponse,
    DeleteItem,
    Heartbeat,
    NewItem,
    PlainEvent,
    PlaybackAck,
    ResponseOptions,
    ResumeSession,
    RetrieveItem,
    SessionUpdate,
    SocketMessage,
    TruncateItem,
    TurnSignal,
    session_update,
)
from backend.wires.realtime.items import given_item, heard_parts, instructions_of
from backend.wires.realtime.session import Dialect, WireSettings, settings_patch, wire_settings
from backend.wires.realtime.telling import ServerMessages, error_message
from backend.wires.wire import (
    Acknowledge,
    Address,
    Beat,
    BinaryAudio,
    Close,
    Fields,
    FirstMessage,
    Message,
    Offer,
    Request,
    Resume,
    SessionKey,
    SocketCommand,
    SocketEvent,
    Wire,
    WireKind,
    encoded,
    new_id,
    requested_number,
    requested_options,
)

_OLDER_API = "realtime=v1"
_FIRST_MESSAGE = FirstMessage("with autostart=0 session.update or session.resume")


class RealtimeWire(Wire[ConversationMessage, Fields]):
    """One conversation in the messages of the OpenAI Realtime API.

    Args:
        has_older_names: whether the client also waits for `conversation.item.created`, as before
            the API was generally available.
        takes_binary: whether binary messages are audio.
    """

    def __init__(
        self,
        dialect: Dialect,
        offer: Offer,
        has_older_names: bool = False,
        takes_binary: bool = False,
    ) -> None:
        super().__init__()
        if dialect is Dialect.DUPLEX:
            self.is_resumable, self.closed_by_quiet = True, "idle"
        self._messages = ServerMessages(
            self.key, dialect, offer, has_older_names or self.is_resumable
        )
        self._takes_binary = takes_binary
        self._hears_words = offer.hears_words
        self._request_id: str | None = None
        """Of the last request for a response, as its client calls it."""

    # From one process to another.

    @override
    def state(self) -> bytes:
        return pickle.dumps((self._messages.state(), self._request_id))

    @override
    def take_up(self, state: bytes) -> None:
        messages, self._request_id = pickle.loads(state)
        self._messages.take_up(messages)
        self.key = self._messages.key

    # From the client.

    @override
    def read(self, message: Message) -> ConversationMessage | SocketCommand:
        if isinstance(message, bytes):
            if self._takes_binary:
                return BinaryAudio(message)
            raise WireError(
                "events are JSON in text messages; binary ones are audio with binary=1 in the "
                "address",
                "binary_message",
            )
        parsed: ConversationMessage | SocketMessage = parse_event(message, MODELS)
        match parsed:
            case ResumeSession():
                key = SessionKey(parsed.session_id, parsed.resume_token)
                return Resume(key, parsed.last_received_server_event_seq, parsed.event_id)
            case AckEvent():
                return Acknowledge(parsed.server_event_seq, parsed.event_id)
            case Heartbeat():
                return Beat(parsed.active, parsed.event_id)
            case CloseSession():
                return Close(parsed.event_id)
            case _:
                return parsed

    @override
    def begin(self, message: ConversationMessage, request: Request) -> Request:
        if isinstance(message, SessionUpdate):
            own, before = self._wanted(message), self._messages.settings
            patch = settings_patch(message.session, before)
            settings = request.defaults.merged(patch, request.options.voices)
            self._messages.settings = own
            return replace(request, defaults=settings)
        return request

    @override
    def takes_time(self, message: ConversationMessage) -> bool:
        """Text is read aloud; a response to it, or a look at it, comes after that.

        Instructions are not read, and settings change one at a time.
        """
        match message:
            case CreateItem():
                return instructions_of(message.item) is None
            case CreateResponse() | RetrieveItem() | DeleteItem():
                return True
            case _:
                return False

    @override
    async def obey(self, message: ConversationMessage, conversation: Conversation) -> list[Fields]:
        match message:
            case AppendAudio():
                await conversation.obey(HearAudio(self._decoded(message.audio)))
            case BinaryAudio():
                await conversation.obey(HearAudio(self._input_format.decode(message.audio)))
            case SessionUpdate():
                await self._update(message, conversation)
            case PlainEvent():
                await conversation.obey(PLAIN_EVENTS[message.type])
            case CreateResponse():
                await self._create_response(message, conversation)
            case CancelResponse():
                self._require_current(message.response_id, conversation)
                await conversation.obey(CancelReply())
            case CreateItem():
                await self._create_item(message.item, conversation, message.event_id)
            case TruncateItem():
                await conversation.obey(self._truncation(message))
            case PlaybackAck():
                await conversation.obey(self._acknowledgement(message))
            case RetrieveItem():
                conversation.activity()
                item = self._messages.items.find(message.item_id)
                return [{"type": "conversation.item.retrieved", "item": item}]
            case DeleteItem():
                conversation.activity()
                self._messages.items.find(message.item_id)
                raise WireError(
                    "what the model has heard or said cannot be taken back", "unsupported_event"
                )
            case TurnSignal():
                conversation.activity()
        return []

    async def _update(self, message: SessionUpdate, conversation: Conversation) -> None:
        before = self._messages.settings
        patch = settings_patch(message.session, before)
        # The conversation tells of the change while it makes it.
        self._messages.settings = self._wanted(message)
        try:
            await conversation.obey(ChangeSettings(patch, message.event_id))
        except AudioInteractionError:
            self._messages.settings = before
            raise

    def _wanted(self, message: SessionUpdate) -> WireSettings:
        return wire_settings(message.session, self._messages.settings, self._hears_words)

    def _decoded(self, audio: str) -> bytes:
        return self._input_format.decode(decoded_base64(audio))

    @property
    def _input_format(self) -> WireFormat:
        # How many of its samples are a second is the conversation's business.
        return WireFormat(self._messages.settings.input)

    async def _create_response(self, message: CreateResponse, conversation: Conversation) -> None:
        # A client that lost its connection may ask again, and not know whether it was heard. In
        # the other dialect none can come back, and some give all their events one id.
        is_repeated = message.event_id is not None and message.event_id == self._request_id
        if is_repeated and self.is_resumable:
            conversation.activity()
            return
        if self._messages.settings.is_transcription:
            raise WireError("a transcription session has no responses", "no_responses", "type")
        options = message.response or ResponseOptions()
        request_id = new_id("request")
        self._messages.responses.requested(request_id, options.metadata or {})
        await conversation.obey(RequestReply(request_id, options.modality))
        self._request_id = message.event_id

    def _require_current(self, response_id: str | None, conversation: Conversation) -> None:
        if response_id in (None, self._messages.responses.current_id):
            return
        if not conversation.is_replying:
            raise WireError("there is no response to cancel", "response_cancel_not_active")
        raise WireError(
            f"{response_id!r} is not the response in progress",
            "response_cancel_not_active",
            "response_id",
        )

    async def _create_item(
        self, new: NewItem, conversation: Conversation, event_id: str | None
    ) -> None:
        self._messages.items.require_new(new.id)
        item = given_item(new)
        heard = heard_parts(new, self._decoded)
        if (instructions := instructions_of(new)) is not None:
            patch = SettingsPatch(more_instructions=instructions)
            await conversation.obey(ChangeSettings(patch, event_id))
        with self._messages.adding(item):
            await conversation.obey(AddInput(item["id"], heard))

    def _truncation(self, message: TruncateItem) -> TruncateReply:
        self._messages.items.find(message.item_id)
        turn = self._messages.responses.find_turn(None, message.item_id)
        if turn is None:
            raise WireError(
                "only a spoken reply of late can be truncated", "invalid_value", "item_id"
            )
        return TruncateReply(turn, message.audio_end_ms)

    def _acknowledgement(self, message: PlaybackAck) -> AcknowledgePlayback:
        turn = self._messages.responses.find_turn(message.response_id, message.item_id)
        if turn is None:
            raise WireError("there is no such reply of late", "response_not_found", "response_id")
        return AcknowledgePlayback(turn, message.played_ms, message.audio_seconds)

    # To the client.

    @override
    def write(self, event: ConversationEvent | SocketEvent) -> list[Fields]:
        return self._messages.write(event)

    @override
    def encode(self, message: Fields, number: int | None) -> str:
        """A message as the socket carries it; where it may be told again, with its number."""
        if number is None or not self.is_resumable:
            return encoded(message)
        return encoded(message, server_event_seq=number)


def _asked(address: Address, offer: Offer) -> Request:
    query = address.query
    dialect = Dialect.DUPLEX if query.get("duplex") == "1" else Dialect.REALTIME
    wire = RealtimeWire(
        dialect,
        offer,
        has_older_names=_OLDER_API in address.headers.get("openai-beta", ""),
        takes_binary=query.get("binary") == "1",
    )
    defaults = ConversationSettings(
        instructions=offer.system_prompt,
        sampling=offer.sampling,
        input_rate_hz=round(requested_number(query, "input_rate", SPEECH_RATE_HZ)),
    )
    waits = dialect is Dialect.DUPLEX and query.get("autostart") == "0"
    request = Request(
        wire,
        requested_options(address, offer, reports_playback=dialect is Dialect.DUPLEX),
        defaults,
        _FIRST_MESSAGE if waits else None,
    )
    session = dict(address.session)
    if query.get("intent") == "transcription":
        session["type"] = "transcription"
    return wire.begin(session_update(session), request) if session else request


REALTIME = WireKind("/v1/realtime", _asked, lambda error: encoded(error_message(error)))
