"""The settings of a conversation: what a client may change, and what is in force."""

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from backend.config import ONLY_WHEN_ASKED, SPEECH_RATE_HZ, SamplingConfig, SessionSettings
from backend.errors import SettingsError
from backend.speech import Voices

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MIN_SPEED, MAX_SPEED = 0.25, 1.5
"""Of a voice."""
AUTO_VOICE = "auto"

Modality = Literal["text", "audio"]
"""How replies are given: written, or spoken with their text."""
Value = TypeVar("Value")


class SettingRangeError(SettingsError):
    """A setting is out of range.

    Args:
        message: a sentence for the client's developer.
        name: of the setting, as in `ConversationSettings`.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """When turns begin and end by themselves."""

    kind: str = "semantic_vad"
    """As the client calls it; nothing depends on it."""
    replies_itself: bool = True
    """Whether the model replies when it wants to, or only when it is asked to."""
    may_interrupt: bool = True
    """Whether speaking over a spoken reply stops it."""
    quiet_reply_seconds: float = 0.0
    """After so much quiet that follows a reply another is asked for; 0 for never."""


NO_TURNS = TurnSettings("none", replies_itself=False, may_interrupt=False)


@dataclass(frozen=True, slots=True)
class TurnPatch:
    """What a client changes of `TurnSettings`; None leaves a setting as it is."""

    kind: str | None = None
    replies_itself: bool | None = None
    may_interrupt: bool | None = None
    quiet_reply_seconds: float | None = None
    is_off: bool = False
    """No turn begins or ends by itself, whatever the rest says."""


@dataclass(frozen=True, slots=True)
class SettingsPatch:
    """What a client changes; None leaves a setting as it is."""

    instructions: str | None = None
    more_instructions: str | None = None
    """A paragraph that joins the instructions."""
    temperature: float | None = None
    top_k: int | None = None
    input_rate_hz: int | None = None
    seed: int | None = None
    max_output_tokens: int | None = None
    decision_bias: float | None = None
    turns: TurnPatch | None = None
    modality: Modality | None = None
    voice: str | None = None
    speed: float | None = None


@dataclass(frozen=True, slots=True)
class ConversationSettings:
    """What is in force for one conversation.

    Raises:
        SettingRangeError: a rate or a speed that cannot be.
    """

    instructions: str
    sampling: SamplingConfig
    input_rate_hz: int = SPEECH_RATE_HZ
    """Of the client's audio."""
    seed: int = 0
    max_output_tokens: int = SessionSettings().max_reply_tokens
    decision_bias: float = 0.0
    turns: TurnSettings = field(default_factory=TurnSettings)
    modality: Modality = "text"
    voice: str = AUTO_VOICE
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not MIN_RATE_HZ <= self.input_rate_hz <= MAX_RATE_HZ:
            raise SettingRangeError(
                f"the sample rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz, "
                f"not {self.input_rate_hz}",
                "input_rate_hz",
            )
        if not MIN_SPEED <= self.speed <= MAX_SPEED:
            raise SettingRangeError(
                f"speed must be between {MIN_SPEED} and {MAX_SPEED}, not {self.speed}", "speed"
            )

    def merged(self, patch: SettingsPatch, voices: Voices) -> "ConversationSettings":
        """These settings with a client's changes, its voice as `voices` know it.

        Raises:
            SettingsError: a value is out of range, or no voice is called so.
        """
        # Agents without instructions send empty ones, which no model was trained with.
        instructions = patch.instructions or self.instructions
        if patch.more_instructions is not None:
            instructions = f"{instructions}\n\n{patch.more_instructions}"
        settings = replace(
            self,
            instructions=instructions,
            sampling=SamplingConfig(
                _given(patch.temperature, self.sampling.temperature),
                _given(patch.top_k, self.sampling.top_k),
            ),
            input_rate_hz=_given(patch.input_rate_hz, self.input_rate_hz),
            seed=_given(patch.seed, self.seed),
            max_output_tokens=_given(patch.max_output_tokens, self.max_output_tokens),
            decision_bias=_given(patch.decision_bias, self.decision_bias),
            turns=_merged_turns(self.turns, patch.turns),
            modality=_given(patch.modality, self.modality),
            voice=voices.find_voice(_given(patch.voice, self.voice)),
            speed=_given(patch.speed, self.speed),
        )
        # A bias that cannot be is refused, also while the model replies on request alone.
        replace(settings.for_engine(), decision_bias=settings.decision_bias)
        return settings

    def with_engine_part(self, other: "ConversationSettings") -> "ConversationSettings":
        """These settings, but what is the engine's as in `other`."""
        return replace(
            self,
            instructions=other.instructions,
            sampling=other.sampling,
            seed=other.seed,
            max_output_tokens=other.max_output_tokens,
            decision_bias=other.decision_bias,
            turns=replace(self.turns, replies_itself=other.turns.replies_itself),
        )

    def for_engine(self) -> SessionSettings:
        """The part that is the engine's."""
        return SessionSettings(
            sampling=self.sampling,
            system_prompt=self.instructions,
            seed=self.seed,
            max_reply_tokens=self.max_output_tokens,
            decision_bias=self.decision_bias if self.turns.replies_itself else ONLY_WHEN_ASKED,
        )


def _given(wanted: Value | None, current: Value) -> Value:
    return current if wanted is None else wanted


def _merged_turns(current: TurnSettings, patch: TurnPatch | None) -> TurnSettings:
    if patch is None:
        return current
    if patch.is_off:
        return NO_TURNS
    base = TurnSettings() if current == NO_TURNS else current
    return TurnSettings(
        kind=_given(patch.kind, base.kind),
        replies_itself=_given(patch.replies_itself, base.replies_itself),
        may_interrupt=_given(patch.may_interrupt, base.may_interrupt),
        quiet_reply_seconds=_given(patch.quiet_reply_seconds, base.quiet_reply_seconds),
    )
