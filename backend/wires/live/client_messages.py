"""What clients may send: the client events of the OpenAI Live API, validated once."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.wires.audio_formats import Encoding, WireFormat
from backend.wires.json_messages import ClientEvent, Name, VoiceName, models_of

MAX_APPEND_CHARACTERS = 2_048
"""Of context that is appended: about the 500 tokens that the API allows."""
MAX_INPUT_ITEMS = 128

AppendedText = Annotated[str, Field(max_length=MAX_APPEND_CHARACTERS)]


class PcmFormat(BaseModel):
    """16-bit PCM."""

    type: Literal["audio/pcm"]
    rate: Literal[16_000, 24_000] = 24_000


class G711Format(BaseModel):
    """As telephones encode it."""

    type: Literal["audio/pcmu", "audio/pcma"]
    rate: Literal[8_000] = 8_000


class SessionVoice(BaseModel):
    """The voice."""

    voice: VoiceName | None = None


class SessionAudio(BaseModel):
    """How a session sounds, from its start to its end."""

    format: Annotated[PcmFormat | G711Format, Field(discriminator="type")] | None = None
    output: SessionVoice | None = None

    def wire_format(self) -> WireFormat:
        """Of what is heard and of what is said."""
        if self.format is None:
            return WireFormat()
        return WireFormat(Encoding(self.format.type), self.format.rate)


class TextPart(BaseModel):
    """The text of a message."""

    text: str


class InitialItem(BaseModel):
    """What was said before the session."""

    role: Literal["developer", "user", "assistant"]
    content: list[TextPart] = Field(min_length=1, max_length=1)


class DecisionQuestion(BaseModel):
    """Something to be decided, as the Decision API asks."""

    model_config = ConfigDict(extra="allow")

    type: Literal["predicate", "choice", "score"]
    name: Name | None = None


class Questions(BaseModel):
    """All that is decided at once."""

    model_config = ConfigDict(extra="allow")

    questions: list[DecisionQuestion] = Field(min_length=1, max_length=32)


class Delegation(BaseModel):
    """Whom the model would hand work to."""

    model_config = ConfigDict(extra="allow")

    type: Literal["client", "responses", "decisions"]
    decisions: Questions | None = None


class SessionConfig(BaseModel):
    """The configuration of a session; what is not named here is refused."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    instructions: str | None = None
    audio: SessionAudio | None = None
    input: list[InitialItem] = Field(default=[], max_length=MAX_INPUT_ITEMS)
    delegation: Delegation | None = None
    triggers: list[dict[str, Any]] | None = None
    store: bool | None = None
    client: dict[str, Any] | None = None
    safety_identifier: str | None = None


class SessionChange(BaseModel):
    """What may change of a session that has started."""

    model_config = ConfigDict(extra="forbid")

    delegation: Delegation | None = None
    triggers: list[dict[str, Any]] | None = None


class StartSession(ClientEvent):
    """The first message."""

    TYPE = "session.start"
    session: SessionConfig


class UpdateSession(ClientEvent):
    """Other delegation."""

    TYPE = "session.update"
    session: SessionChange


class AppendInputAudio(ClientEvent):
    """More audio, in the session's format."""

    TYPE = "session.input_audio.append"
    audio: str


class MuteInput(ClientEvent):
    """The model hears silence instead of what is sent."""

    TYPE = "session.input_audio.mute"


class UnmuteInput(ClientEvent):
    """It hears again."""

    TYPE = "session.input_audio.unmute"


class PlayFixture(ClientEvent):
    """Sound, PCM16 at 24 kHz, that is played in place of the model's."""

    TYPE = "session.output_audio.fixture.play"
    audio: str


class AppendContext(ClientEvent):
    """More for the model to go by."""

    content: AppendedText
    delegation_id: Name | None = None


class AppendInstructions(AppendContext):
    """What it is to follow."""

    TYPE = "session.instructions.append"


class AppendThinking(AppendContext):
    """What it is to know."""

    TYPE = "session.thinking.append"


class AppendCommentary(AppendContext):
    """What it is to say."""

    TYPE = "session.commentary.append"


class CreateDecision(ClientEvent):
    """Answer the session's questions now."""

    TYPE = "decision.create"
    event_id: Name


class EndSession(ClientEvent):
    """End the session."""

    TYPE = "session.close"


class Unsupported(ClientEvent):
    """What the API has and this model has not: refused by name."""

    type: str


UNSUPPORTED = {
    **dict.fromkeys(
        ("decision.item.create", "decision.item.delete"),
        ("decision_items_unsupported", "decisions are on what is heard alone"),
    ),
    **dict.fromkeys(
        ("response.create", "response.item.create"),
        ("delegation_unsupported", "no other model works for this session"),
    ),
    "transport.dtmf.send": ("sip_unsupported", "this session is no telephone call"),
}
"""Code and reason, by type."""
SessionMessage = (
    StartSession
    | UpdateSession
    | AppendInputAudio
    | MuteInput
    | UnmuteInput
    | PlayFixture
    | AppendInstructions
    | AppendThinking
    | AppendCommentary
    | CreateDecision
    | Unsupported
)
MODELS = models_of(SessionMessage | EndSession) | dict.fromkeys(UNSUPPORTED, Unsupported)
