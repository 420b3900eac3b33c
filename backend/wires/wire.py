"""What a wire is: a protocol in which clients and a conversation talk over a socket.

A wire reads a client's messages and has the conversation follow them, and writes what happens as
messages of its own. A new one is a module beside `backend.wires.realtime`, and a line in
`backend.wires.registry`.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol, TypeVar

from backend.admission import Standing
from backend.config import SamplingConfig
from backend.conversation.conversation import Conversation, ConversationOptions
from backend.conversation.events import ConversationEvent, EndReason
from backend.conversation.settings import ConversationSettings
from backend.conversation.voice_activity import VoiceDetection
from backend.speech import Voices
from backend.wires.errors import CloseCode, WireError

Message = str | bytes
"""As a socket carries it."""


def new_id(prefix: str) -> str:
    """An id that cannot be guessed, such as `resp_0f3c...`."""
    return f"{prefix}_{secrets.token_hex(10)}"


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


class ClientMessage(Protocol):
    """A message that has been read."""

    @property
    def event_id(self) -> str | None:
        """What the client calls it; None where it has no name."""


ClientT = TypeVar("ClientT", bound=ClientMessage)
ServerT = TypeVar("ServerT")


class Wire(Protocol[ClientT, ServerT]):
    """One conversation in the messages of one protocol, for as long as it goes on."""

    @property
    def key(self) -> SessionKey:
        """Takes the conversation up again, where `is_resumable`."""

    @property
    def is_resumable(self) -> bool:
        """Whether clients wait in line, and take up conversations whose socket was lost."""

    def read(self, message: Message) -> ClientT | SocketCommand:
        """A client's message, validated.

        Raises:
            WireError: it is none.
        """

    def settings(self, message: ClientT, defaults: ConversationSettings) -> ConversationSettings:
        """Those with which a conversation begins whose first message this is; it is obeyed after.

        Raises:
            AudioInteractionError: they cannot be.
        """

    def takes_time(self, message: ClientT) -> bool:
        """Whether what a message asks may take a while, or has to come after what does."""

    async def obey(self, message: ClientT, conversation: Conversation) -> Sequence[ServerT]:
        """Have the conversation do what a message asks.

        Returns what the wire itself answers, beside what the conversation tells.

        Raises:
            AudioInteractionError: it cannot be done; the conversation goes on.
        """

    def write(self, event: ConversationEvent | SocketEvent) -> Sequence[ServerT]:
        """The messages that tell of what happens, in order; none where the wire has no words."""

    def ending(self, reason: EndReason) -> Ending:
        """How the socket is closed when the conversation has ended."""

    def encode(self, message: ServerT, number: int | None) -> str:
        """A message as the socket carries it.

        Args:
            message: one that `write` has made.
            number: of it, from 1 in a conversation; None for one of this socket alone.
        """


AnyWire = Wire[Any, Any]


class Start(Enum):
    """When a socket has its conversation."""

    AT_ONCE = auto()
    """A new one, as soon as there is room."""
    FIRST_MESSAGE = auto()
    """A message takes up one whose socket was lost; anything else begins a new one."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client's address asks for."""

    wire: AnyWire
    options: ConversationOptions
    defaults: ConversationSettings
    """Before the client changes them."""
    start: Start = Start.AT_ONCE


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client connects, and what it says about itself."""

    query: Mapping[str, str]
    headers: Mapping[str, str]


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
    voice_detection: VoiceDetection = field(default_factory=VoiceDetection)
    """Judges where people speak, for all conversations together."""


class WireKind(Protocol):
    """A protocol that a server offers under one path."""

    @property
    def path(self) -> str:
        """As in `/v1/realtime`."""

    def request(self, address: Address, offer: Offer) -> Request:
        """What a client's address asks for.

        Raises:
            WireError: it cannot be.
        """

    def refusal(self, error: WireError) -> str:
        """The message that tells a client why its socket is closed."""
