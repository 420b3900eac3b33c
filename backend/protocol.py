"""The model's turn protocol: control tokens, emotions and the turn machine. Pure: no torch.

listening   AUDIO_BEGIN PAD*10 ASSISTANT -> KEEP_SILENCE | TEXT_BEGIN
speaking    [EMOTION] <text tokens> TEXT_END
"""

import math
from dataclasses import dataclass, fields
from enum import Enum, StrEnum, auto

from backend.config import FEATURES_PER_CHUNK
from backend.errors import ProtocolError


def speak_threshold(decision_bias: float) -> float:
    """The probability, before the bias is added to its logit, above which speaking is likelier.

    Args:
        decision_bias: in nats; minus infinity gives 1, which no probability is above.
    """
    return 1 / (1 + math.exp(decision_bias))


class Emotion(StrEnum):
    """The emotions the model can give a reply."""

    HAPPY = "happy"
    SAD = "sad"
    ANGRY = "angry"
    SURPRISE = "surprise"
    NORMAL = "normal"
    URGENT = "urgent"


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Ids of the control tokens; the defaults are the released model's."""

    user: int = 151601
    assistant: int = 151602
    keep_silence: int = 151605
    pad: int = 151608
    online: int = 151609
    offline: int = 151610
    english: int = 151611
    happy: int = 151614
    sad: int = 151615
    angry: int = 151616
    surprise: int = 151617
    normal: int = 151618
    urgent: int = 151619
    text_end: int = 151643
    text_begin: int = 151644
    audio_pad: int = 151646
    audio_begin: int = 151647
    audio_end: int = 151648

    @property
    def system(self) -> int:
        """SYSTEM shares its id with TEXT_BEGIN."""
        return self.text_begin

    def emotion_of(self, token: int) -> Emotion | None:
        """The emotion that `token` names, if it names one."""
        for emotion in Emotion:
            if token == getattr(self, emotion.value):
                return emotion
        return None

    def all_ids(self) -> frozenset[int]:
        """Every control token's id."""
        return frozenset(getattr(self, field.name) for field in fields(self))


class TokenKind(Enum):
    """What a sampled token is to the turn machine."""

    KEEP_SILENCE = auto()
    TEXT_BEGIN = auto()
    TEXT_END = auto()
    EMOTION = auto()
    CONTROL = auto()
    """Any other control token: it has no text and no meaning inside a reply."""
    TEXT = auto()


class TurnState(Enum):
    """Where a session stands between two sampled tokens."""

    LISTENING = auto()
    """The next token is a decision, taken after a chunk."""
    OPENING = auto()
    """TEXT_BEGIN was sampled; an emotion may follow, or the text starts."""
    SPEAKING = auto()
    """Text is being generated until TEXT_END."""


class Effect(Enum):
    """What a transition means to the listener."""

    STAY_SILENT = auto()
    OPEN_TURN = auto()
    NAME_EMOTION = auto()
    ADD_TEXT = auto()
    PASS_OVER = auto()
    """The token stays in the context and is shown to nobody."""
    CLOSE_TURN = auto()


def kind_of(token: int, control: ControlTokens) -> TokenKind:
    """Classify a sampled token."""
    if token == control.keep_silence:
        return TokenKind.KEEP_SILENCE
    if token == control.text_begin:
        return TokenKind.TEXT_BEGIN
    if token == control.text_end:
        return TokenKind.TEXT_END
    if control.emotion_of(token) is not None:
        return TokenKind.EMOTION
    if token in control.all_ids():
        return TokenKind.CONTROL
    return TokenKind.TEXT


def advance(state: TurnState, kind: TokenKind) -> tuple[TurnState, Effect]:
    """One step of the turn machine.

    Raises:
        ProtocolError: a decision that is neither KEEP_SILENCE nor TEXT_BEGIN.
    """
    match state, kind:
        case TurnState.LISTENING, TokenKind.KEEP_SILENCE:
            return TurnState.LISTENING, Effect.STAY_SILENT
        case TurnState.LISTENING, TokenKind.TEXT_BEGIN:
            return TurnState.OPENING, Effect.OPEN_TURN
        case TurnState.LISTENING, _:
            raise ProtocolError(
                f"a decision must be KEEP_SILENCE or TEXT_BEGIN, the model chose {kind.name}"
            )
        case _, TokenKind.TEXT_END:
            return TurnState.LISTENING, Effect.CLOSE_TURN
        case TurnState.OPENING, TokenKind.EMOTION:
            return TurnState.SPEAKING, Effect.NAME_EMOTION
        case _, TokenKind.TEXT:
            return TurnState.SPEAKING, Effect.ADD_TEXT
        case _:
            return TurnState.SPEAKING, Effect.PASS_OVER


def online_prefix(control: ControlTokens, prompt_tokens: list[int]) -> list[int]:
    """Token ids that open a streaming session."""
    return [
        control.online,
        control.english,
        control.system,
        control.text_begin,
        *prompt_tokens,
        control.text_end,
    ]


def listening_tokens(control: ControlTokens, previous_token: int) -> list[int]:
    """Token ids of one listening step; the features replace the PAD embeddings."""
    return [
        previous_token,
        control.audio_begin,
        *[control.pad] * FEATURES_PER_CHUNK,
        control.assistant,
    ]


def offline_sequence(
    control: ControlTokens,
    prompt_tokens: list[int],
    num_features: int,
    user_tokens: list[int] | None = None,
) -> list[int]:
    """Token ids that ask for one answer to one clip; features replace the AUDIO_PADs."""
    question = (
        [control.user, control.text_begin, *user_tokens, control.text_end] if user_tokens else []
    )
    return [
        control.offline,
        control.english,
        control.system,
        control.text_begin,
        *prompt_tokens,
        control.text_end,
        control.audio_begin,
        *[control.audio_pad] * num_features,
        control.audio_end,
        *question,
        control.assistant,
        control.text_begin,
    ]
