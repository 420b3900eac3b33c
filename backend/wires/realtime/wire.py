"""The OpenAI Realtime API and its full-duplex dialect, as a wire: messages in and out."""

import json

from backend.config import SPEECH_RATE_HZ
from backend.conversation.commands import (
    AcknowledgePlayback,
    AddInput,
    CancelReply,
    ChangeSettings,
    DiscardAudio,
    EndRecording,
    EndUtterance,
    HearAudio,
    InterruptReply,
    RequestReply,
    StopOutput,
    TruncateReply,
)
from backend.conversation.conversation import Conversation, ConversationOptions
from backend.conversation.events import (
    ConversationEvent,
    EndReason,
)
from backend.conversation.settings import ConversationSettings
from backend.errors import SettingsError
from backend.wires.errors import CloseCode, WireError, as_wire_error
from backend.wires.realtime.client_messages import (
    AckEvent,
    AppendAudio,
    BargeIn,
    CancelResponse,
    ClearAudio,
    ClearOutput,
    CloseSession,
    CommitAudio,
    ConversationMessage,
    CreateItem,
    CreateResponse,
    DeleteItem,
    Heartbeat,
    NewItem,
    PlaybackAck,
    ResponseOptions,
    ResumeSession,
    RetrieveItem,
    SessionUpdate,
    StopRecording,
    TruncateItem,
    TurnSignal,
    parse_client_message,
)
from backend.wires.realtime.dialect import Dialect
from backend.wires.realtime.inputs import decoded_audio, given_item, heard_parts
from backend.wires.realtime.server_messages import (
    ItemRetrieved,
    ServerMessage,
)
from backend.wires.realtime.session import settings_patch
from backend.wires.realtime.telling import ServerMessages, error_message
from backend.wires.wire import (
    Acknowledge,
    Address,
    Beat,
    Close,
    Ending,
    Message,
    Offer,
    Request,
    Resume,
    SessionKey,
    SocketCommand,
    SocketEvent,
    Start,
    new_id,
)

_OLDER_API = "realtime=v1"


class RealtimeWire:
    """One conversation in the messages of the OpenAI Realtime API.

    Args:
        dialect: which vocabulary the client has asked for.
        offer: what the server has.
        has_older_names: whether the client also waits for `conversation.item.created`, as before
            the API was generally available.
    """

    def __init__(self, dialect: Dialect, offer: Offer, has_older_names: bool = False) -> None:
        self.key = SessionKey()
        self.is_resumable = dialect is Dialect.DUPLEX
        """Whether clients wait in line, and take up conversations whose socket was lost."""
        self._messages = ServerMessages(
            self.key, dialect, offer, has_older_names or self.is_resumable
        )
        self._request_id: str | None = None
        """Of the last request for a response, as its client calls it."""

    # From the client.

    def read(self, message: Message) -> ConversationMessage | SocketCommand:
        """A client's message, validated.

        Raises:
            WireError: it is none.
        """
        if isinstance(message, bytes):
            raise WireError("events are JSON in text messages, not binary", "binary_message")
        match parsed := parse_client_message(message):
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

    def settings(
        self, message: ConversationMessage, defaults: ConversationSettings
    ) -> ConversationSettings:
        """Those with which a conversation begins whose first message this is; it is obeyed after.

        Raises:
            AudioInteractionError: they cannot be.
        """
        if isinstance(message, SessionUpdate):
            return defaults.merged(settings_patch(message.session))
        return defaults

    def takes_time(self, message: ConversationMessage) -> bool:
        """Text is read aloud; a response to it, or a look at it, comes after that."""
        return isinstance(message, CreateItem | CreateResponse | RetrieveItem | DeleteItem)

    async def obey(
        self, message: ConversationMessage, conversation: Conversation
    ) -> list[ServerMessage]:
        """Have the conversation do what a message asks.

        Returns what the wire itself answers, beside what the conversation tells.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """
        match message:
            case AppendAudio():
                await conversation.obey(HearAudio(decoded_audio(message.audio)))
            case SessionUpdate():
                await conversation.obey(
                    ChangeSettings(settings_patch(message.session), message.event_id)
                )
            case CommitAudio():
                await conversation.obey(EndUtterance())
            case ClearAudio():
                await conversation.obey(DiscardAudio())
            case CreateResponse():
                await self._create_response(message, conversation)
            case CancelResponse():
                self._require_current(message.response_id, conversation)
                await conversation.obey(CancelReply())
            case CreateItem():
                await self._create_item(message.item, conversation)
            case TruncateItem():
                await conversation.obey(self._truncation(message))
            case ClearOutput():
                await conversation.obey(StopOutput())
            case BargeIn():
                await conversation.obey(InterruptReply())
            case PlaybackAck():
                await conversation.obey(self._acknowledgement(message))
            case StopRecording():
                await conversation.obey(EndRecording())
            case RetrieveItem():
                conversation.activity()
                item = self._messages.items.find(message.item_id)
                return [ItemRetrieved(type="conversation.item.retrieved", item=item)]
            case DeleteItem():
                conversation.activity()
                self._messages.items.find(message.item_id)
                raise WireError(
                    "what the model has heard or said cannot be taken back", "unsupported_event"
                )
            case TurnSignal():
                conversation.activity()
        return []

    async def _create_response(self, message: CreateResponse, conversation: Conversation) -> None:
        # A client that lost its connection may ask again, and not know whether it was heard. In
        # the other dialect none can come back, and some give all their events one id.
        is_repeated = message.event_id is not None and message.event_id == self._request_id
        if is_repeated and self.is_resumable:
            conversation.activity()
            return
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

    async def _create_item(self, new: NewItem, conversation: Conversation) -> None:
        self._messages.items.require_new(new.id)
        item = given_item(new)
        with self._messages.adding(item):
            await conversation.obey(AddInput(item["id"], heard_parts(new)))

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

    def write(self, event: ConversationEvent | SocketEvent) -> list[ServerMessage]:
        """The messages that tell of what happens, in order."""
        return self._messages.write(event)

    def ending(self, reason: EndReason) -> Ending:
        """How the socket is closed when the conversation has ended."""
        match reason:
            case EndReason.CLIENT:
                return Ending(CloseCode.NORMAL, "client_request")
            case EndReason.IDLE:
                return Ending(CloseCode.EXPIRED, "idle" if self.is_resumable else "session_expired")
            case EndReason.FAILED:
                return Ending(CloseCode.SESSION_FAILED, "session_failed")

    def encode(self, message: ServerMessage, number: int | None) -> str:
        """A message as the socket carries it, with an id of its own."""
        fields = {"type": message["type"], "event_id": new_id("event"), **message}
        if number is not None and self.is_resumable:
            fields["server_event_seq"] = number
        return json.dumps(fields, ensure_ascii=False)


class Realtime:
    """The wire as a server offers it."""

    path = "/v1/realtime"

    def request(self, address: Address, offer: Offer) -> Request:
        """What a client's address asks for.

        Raises:
            WireError: it cannot be.
        """
        query = address.query
        dialect = Dialect.DUPLEX if query.get("duplex") == "1" else Dialect.REALTIME
        is_recorded = query.get("record") == "1"
        if is_recorded and not offer.may_record:
            raise WireError("this server records nothing", "recording_off")
        options = ConversationOptions(
            voices=offer.voices,
            voice_detection=offer.voice_detection,
            reports_playback=dialect is Dialect.DUPLEX,
            idle_seconds=offer.idle_seconds,
            recording_title=query.get("title", "") if is_recorded else None,
        )
        try:
            defaults = ConversationSettings(
                instructions=offer.system_prompt,
                sampling=offer.sampling,
                input_rate_hz=_input_rate_hz(query.get("input_rate", str(SPEECH_RATE_HZ))),
            )
        except SettingsError as error:
            raise as_wire_error(error) from error
        has_older_names = _OLDER_API in address.headers.get("openai-beta", "")
        waits = dialect is Dialect.DUPLEX and query.get("autostart") == "0"
        return Request(
            RealtimeWire(dialect, offer, has_older_names),
            options,
            defaults,
            Start.FIRST_MESSAGE if waits else Start.AT_ONCE,
        )

    def refusal(self, error: WireError) -> str:
        """The message that tells a client why its socket is closed."""
        message = error_message(error)
        return json.dumps({"type": message["type"], "event_id": new_id("event"), **message})


def _input_rate_hz(given: str) -> int:
    # Python reads no number of thousands of digits.
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise WireError(
            f"input_rate must be a number of Hz, not {given[:32]!r}", "invalid_value", "input_rate"
        )
    return int(given)
