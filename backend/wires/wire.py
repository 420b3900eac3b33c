"""What a wire is: a protocol in which clients and a conversation talk over a socket.

A wire reads a client's messages and has the conversation follow them, and writes what happens as
messages of its own. A new one is a module beside `backend.wires.realtime`, and a line in
`backend.wires.registry`.
"""

import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from backend.admission import Standing
from backend.config import SamplingConfig
from backend.conversation.conversation import Conversation, ConversationOptions
from backend.conversation.events import (
    ConversationEvent,
    ConversationFailed,
    ConversationIdled,
    EndReason,
    SettingsRefused,
)
from backend.conversation.settings import ConversationSettings
from backend.conversation.voice_activity import VoiceDetection
from backend.errors import AudioInteractionError
from backend.speech import Voices
from backend.timing import Time
from backend.wires.errors import CloseCode, WireError, as_wire_error, engine_failed, session_failed

_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?", re.ASCII)

Message = str | bytes
"""As a socket carries it."""
Fields = dict[str, Any]
"""A JSON object that clients are told. What it holds is the protocol's to say: OpenAI's own types
are the specification of its APIs, and the tests hold every message to them."""


def new_id(prefix: str) -> str:
    """An id that cannot be guessed, such as `resp_0f3c...`."""
    return f"{prefix}_{secrets.token_hex(10)}"


def encoded(message: Fields, **more: Any) -> str:
    """A message as OpenAI's APIs have it: JSON, its type first, with an id of its own."""
    fields = {"type": message["type"], "event_id": new_id("event"), **message, **more}
    return json.dumps(fields, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class SessionKey:
    """What a client shows that takes up a conversation over another socket."""

    session_id: str = field(default_factory=lambda: new_id("sess"))
    resume_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))


# What a client asks of its socket, and not of the conversation.


@dataclass(frozen=True, slots=True)
class Resume:
    """Take up a conversation whose socket was lost."""

    key: SessionKey
    num_received: int
    """The number of the newest message that has arrived."""
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Messages up to this one have arrived and need not be kept."""

    number: int
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """The client is there; `is_active` says that its user is."""

    is_active: bool
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """End the conversation for good."""

    event_id: str | None = None


SocketCommand = Resume | Acknowledge | Beat | Close


# What happens to a socket, and not to the conversation.


@dataclass(frozen=True, slots=True)
class Queued:
    """The client waits in line for a conversation."""

    ticket_id: str
    standing: Standing
    is_first: bool
    """Whether it is told for the first time."""


@dataclass(frozen=True, slots=True)
class QueueDone:
    """The wait is over."""

    ticket_id: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """The socket has taken up a conversation."""

    generation: int
    """How many sockets the conversation has had."""
    arrived_seconds: float
    """How much of the client's audio has arrived."""


@dataclass(frozen=True, slots=True)
class MessagesLost:
    """Some messages that have not arrived are not kept any more."""

    num_lost: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another socket has taken up the conversation."""


@dataclass(frozen=True, slots=True)
class Beaten:
    """The server is there too."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A message cannot be honoured; the conversation goes on."""

    error: WireError


SocketEvent = Queued | QueueDone | Resumed | MessagesLost | Replaced | Beaten | Refused


@dataclass(frozen=True, slots=True)
class Ending:
    """Nothing more comes: how the socket is to be closed."""

    close_code: CloseCode
    reason: str


ErrorEvent = Refused | SettingsRefused | ConversationFailed | ConversationIdled


def error_of(event: ErrorEvent) -> WireError:
    """What a client is told where something cannot be, or cannot go on."""
    match event:
        case Refused():
            return event.error
        case SettingsRefused():
            return WireError(event.message, "invalid_value", "session", event.reference)
        case ConversationFailed():
            return (engine_failed if event.of_engine else session_failed)(event.message)
        case ConversationIdled():
            minutes = event.idle_seconds / 60
            return WireError(f"all was quiet for {minutes:g} min", "session_expired")


class ClientMessage(Protocol):
    """A message that has been read."""

    @property
    def event_id(self) -> str | None:
        """What the client calls it; None where it has no name."""


@dataclass(frozen=True, slots=True)
class BinaryAudio:
    """What a binary message holds: sound."""

    audio: bytes
    event_id: None = None


ClientT = TypeVar("ClientT", bound=ClientMessage)
ServerT = TypeVar("ServerT")


class Wire(ABC, Generic[ClientT, ServerT]):
    """One conversation in the messages of one protocol, for as long as it goes on.

    Args:
        key: takes the conversation up again, where `is_resumable`; None for a new one.
    """

    is_resumable = False
    """Whether clients wait in line, and take up conversations whose socket was lost."""
    closed_by_client = "client_request"
    closed_by_quiet = "session_expired"
    """The reasons that go with a socket's end."""

    def __init__(self, key: SessionKey | None = None) -> None:
        self.key = key or SessionKey()

    @abstractmethod
    def read(self, message: Message) -> ClientT | SocketCommand:
        """A client's message, validated.

        Raises:
            WireError: it is none.
        """

    def begin(self, message: ClientT, request: "Request") -> "Request":
        """The request of a socket whose first message this is; it is obeyed after.

        Raises:
            AudioInteractionError: it cannot be.
        """
        return request

    def takes_time(self, message: ClientT) -> bool:
        """Whether what a message asks may take a while, or has to come after what does."""
        return False

    @abstractmethod
    async def obey(self, message: ClientT, conversation: Conversation) -> Sequence[ServerT]:
        """Have the conversation do what a message asks.

        Returns what the wire itself answers, beside what the conversation tells.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """

    @abstractmethod
    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[ServerT]:
        """The messages that tell of what happens, in order; none where the wire has no words."""

    @abstractmethod
    def encode(self, message: ServerT, number: int | None) -> str | None:
        """A message as the socket carries it; None where this client is not told.

        Args:
            message: one that `write` has made.
            number: of it, from 1 in a conversation; None for one of this socket alone.
        """

    async def run(self, tell: Callable[[Sequence[ServerT]], None], time: Time) -> None:
        """Tell what has its time, for as long as the conversation goes on: by default, nothing."""

    def state(self) -> bytes:
        """What another process needs to go on with it, where it is resumable."""
        raise NotImplementedError

    def take_up(self, state: bytes) -> None:
        """Go on from a state of another process's."""
        raise NotImplementedError

    def ending(self, reason: EndReason) -> Ending:
        """How the socket is closed when the conversation has ended."""
        match reason:
            case EndReason.CLIENT | EndReason.LEFT:
                return Ending(CloseCode.NORMAL, self.closed_by_client)
            case EndReason.IDLE:
                return Ending(CloseCode.EXPIRED, self.closed_by_quiet)
            case EndReason.FAILED:
                return Ending(CloseCode.SESSION_FAILED, "session_failed")


AnyWire = Wire[Any, Any]


@dataclass(frozen=True, slots=True)
class FirstMessage:
    """A socket has no conversation before a message, which says what it is for."""

    expected: str
    """What it is, for a client that does not send it."""
    wait_seconds: float = 10.0
    """It must have come by then."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Looks at the conversation of another socket."""

    session_id: str
    begin: Callable[[AnyWire], Sequence[Any]]
    """Gets to know the other's wire; gives what is told first. Raises WireError for a stranger."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client's address asks for."""

    wire: AnyWire
    options: ConversationOptions
    defaults: ConversationSettings
    """Before the client changes them."""
    first_message: FirstMessage | None = None
    """None begins a new conversation at once."""
    observes: Observation | None = None
    """Has no conversation of its own, but looks at and steers another socket's."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client connects, and what it says about itself."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    """What its path names, as `session_id`."""
    session: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the client's short-lived key stands for."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server has for every conversation."""

    model: str
    """The checkpoint's name."""
    system_prompt: str
    sampling: SamplingConfig
    max_positions: int
    """Of a conversation's context."""
    voices: Voices
    idle_seconds: float
    """Of quiet that end a conversation; 0 for never."""
    may_record: bool
    hears_words: bool = False
    """Whether the model writes down what it hears."""
    opening: str | None = None
    """What the model answers with a greeting; None where that is not known."""
    may_keep_silent: bool = False
    """Whether the model states what it answers, and need not answer other inputs."""
    voice_detection: VoiceDetection = field(default_factory=VoiceDetection)
    """Judges where people speak, for all conversations together."""


def requested_options(
    address: Address, offer: Offer, *, reports_playback: bool = False
) -> ConversationOptions:
    """What a conversation is from its beginning to its end.

    Raises:
        WireError: it was to be recorded, and nothing is here.
    """
    title = None
    if address.query.get("record") == "1":
        require_recording(offer)
        title = address.query.get("title", "")
    return ConversationOptions(
        voices=offer.voices,
        reports_playback=reports_playback,
        idle_seconds=offer.idle_seconds,
        recording_title=title,
        voice_detection=offer.voice_detection,
        opening=offer.opening,
        may_keep_silent=offer.may_keep_silent,
    )


def requested_number(query: Mapping[str, str], name: str, default: float) -> float:
    """The number that an address gives something; `default` where it gives none.

    Raises:
        WireError: it is none.
    """
    given = query.get(name)
    if given is None:
        return default
    # Python reads a number of any length, and in many scripts.
    if _NUMBER.fullmatch(given) is None:
        raise WireError(f"{name} is a number, not {given[:32]!r}", "invalid_value", name)
    return float(given)


def require_recording(offer: Offer, param: str | None = None) -> None:
    """Refuse to record where nothing is.

    Raises:
        WireError: that is so here; `param` has asked for it.
    """
    if not offer.may_record:
        raise WireError("this server records nothing", "recording_off", param)


@dataclass(frozen=True, slots=True)
class WireKind:
    """A protocol that a server offers under one path."""

    path: str
    """As in `/v1/realtime`, or `/v1/live/sessions/{session_id}/attach`."""
    asked: Callable[[Address, Offer], Request]
    """What an address asks for. Raises AudioInteractionError: it cannot be."""
    refusal: Callable[[WireError], str]
    """The message that tells a client why its socket is closed."""

    def request(self, address: Address, offer: Offer) -> Request:
        """What a client's address asks for.

        Raises:
            WireError: it cannot be.
        """
        try:
            return self.asked(address, offer)
        except AudioInteractionError as error:
            raise as_wire_error(error) from error
