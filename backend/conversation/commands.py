"""What a client asks of a conversation, and why that cannot be, as facts that know no wire."""

from dataclasses import dataclass
from enum import Enum, auto

from backend.conversation.settings import Modality, SettingsPatch
from backend.errors import AudioInteractionError


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """Follow other settings."""

    patch: SettingsPatch
    reference: str | None = None
    """What the client calls it, where it has a name."""


@dataclass(frozen=True, slots=True)
class HearAudio:
    """More of the client's audio: PCM16 mono, at the rate of the settings."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class EndUtterance:
    """The utterance is over: what does not fill a chunk is padded and heard."""


@dataclass(frozen=True, slots=True)
class DiscardAudio:
    """Forget the audio that does not fill a chunk yet."""


@dataclass(frozen=True, slots=True)
class GivenText:
    """Text that is read to the model."""

    text: str


@dataclass(frozen=True, slots=True)
class GivenSound:
    """Sound that is heard as if it had been live: PCM16 mono, at the rate of the settings."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class AddInput:
    """Let the model hear what was typed, or a sound, beside the live audio."""

    reference: str | None
    """What the client calls it; None where it is no input of the client's."""
    parts: tuple[GivenText | GivenSound, ...]
    """In order; empty for what is part of the conversation and not heard."""

    @property
    def text(self) -> str:
        """What of it is read aloud; empty where it is only heard."""
        return " ".join(
            part.text for part in self.parts if isinstance(part, GivenText) and part.text
        )


@dataclass(frozen=True, slots=True)
class RequestReply:
    """Reply now, whatever the model would decide."""

    request_id: str
    """The reply that satisfies the request bears it."""
    modality: Modality | None = None
    """None takes the conversation's."""


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop the reply in progress, or take back a request for one."""


@dataclass(frozen=True, slots=True)
class StopOutput:
    """Stop what is being said, if anything is."""


@dataclass(frozen=True, slots=True)
class InterruptReply:
    """Stop the reply over which the client's user speaks, as the client has found."""


@dataclass(frozen=True, slots=True)
class TruncateReply:
    """Of a spoken reply only so much was heard; it ends if it goes on."""

    turn: int
    heard_ms: int


@dataclass(frozen=True, slots=True)
class AcknowledgePlayback:
    """The client has played so much of a reply."""

    turn: int
    played_ms: float
    at_seconds: float | None = None
    """Where in its own audio that was so; None for now."""


@dataclass(frozen=True, slots=True)
class EndRecording:
    """End the recording; the conversation goes on."""


Command = (
    ChangeSettings
    | HearAudio
    | EndUtterance
    | DiscardAudio
    | AddInput
    | RequestReply
    | CancelReply
    | StopOutput
    | InterruptReply
    | TruncateReply
    | AcknowledgePlayback
    | EndRecording
)


class Problem(Enum):
    """Why a command cannot be followed."""

    TOO_MUCH_AUDIO = auto()
    """As much audio waits to be heard as may."""
    NO_AUDIO = auto()
    """No audio has come since the last utterance."""
    ALREADY_REPLYING = auto()
    """A reply is in progress or asked for."""
    NO_REPLY = auto()
    """No reply is in progress or asked for."""
    UNKNOWN_REPLY = auto()
    """There is no such reply of late."""
    NOT_SPOKEN = auto()
    """The reply is none that was spoken of late."""
    NOT_RECORDED = auto()
    """Nothing is recorded."""


class CommandError(AudioInteractionError):
    """A command cannot be followed; the conversation goes on.

    Args:
        message: a sentence for the client's developer.
    """

    def __init__(self, message: str, problem: Problem) -> None:
        super().__init__(message)
        self.problem = problem
