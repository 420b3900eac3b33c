"""The configuration of a conversation: what a client may set, and what is in force."""

from dataclasses import dataclass, field, replace
from typing import TypeVar

from backend.config import ONLY_WHEN_ASKED, SPEECH_RATE_HZ, SamplingConfig, SessionSettings
from backend.wires.errors import WireError
from backend.wires.realtime.client_messages import (
    AudioFormat,
    AudioInput,
    AudioOutput,
    CustomVoice,
    Eagerness,
    Modality,
    SessionPatch,
    TurnDetection,
)

GA_RATE_HZ = SPEECH_RATE_HZ
"""What `audio/pcm` means in the OpenAI Realtime API, and what spoken replies are sampled at."""
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MIN_SPEED, MAX_SPEED = 0.25, 1.5
"""The API's range of a voice's speed."""
AUTO_VOICE = "auto"

Value = TypeVar("Value")

_PCM_FORMATS = ("audio/pcm", "pcm16")
_EAGERNESS_BIAS: dict[Eagerness, float] = {"low": -2.0, "medium": 0.0, "auto": 0.0, "high": 2.0}
_BIAS_EAGERNESS: dict[float, Eagerness] = {-2.0: "low", 2.0: "high"}


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """When turns begin and end by themselves."""

    type: str = "semantic_vad"
    """As the client called it: in both cases the model decides when to reply."""
    create_response: bool = True
    """Whether the model replies when it wants to, or only when it is asked to."""
    interrupt_response: bool = True
    """Whether speaking over a spoken reply stops it."""

    def merged(self, patch: TurnDetection) -> "TurnSettings":
        """This with a client's changes."""
        return TurnSettings(
            type=patch.type,
            create_response=_given(patch.create_response, self.create_response),
            interrupt_response=_given(patch.interrupt_response, self.interrupt_response),
        )


NO_TURN_TAKING = TurnSettings("none", create_response=False, interrupt_response=False)


@dataclass(frozen=True, slots=True)
class ConversationSettings:
    """What is in force for one conversation."""

    instructions: str
    sampling: SamplingConfig
    input_rate_hz: int = GA_RATE_HZ
    seed: int = 0
    max_output_tokens: int = SessionSettings().max_reply_tokens
    decision_bias: float = 0.0
    turn_taking: TurnSettings = field(default_factory=TurnSettings)
    modality: Modality = "text"
    voice: str = AUTO_VOICE
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not MIN_RATE_HZ <= self.input_rate_hz <= MAX_RATE_HZ:
            raise WireError(
                f"the sample rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz, "
                f"not {self.input_rate_hz}",
                "invalid_value",
                "session.audio.input.format.rate",
            )
        if not MIN_SPEED <= self.speed <= MAX_SPEED:
            raise WireError(
                f"speed must be between {MIN_SPEED} and {MAX_SPEED}, not {self.speed}",
                "invalid_value",
                "session.audio.output.speed",
            )

    @property
    def eagerness(self) -> Eagerness:
        """The API's word for the bias; `auto` for what it has no word for."""
        return _BIAS_EAGERNESS.get(self.decision_bias, "auto")

    def merged(self, patch: SessionPatch) -> "ConversationSettings":
        """This configuration with a client's changes.

        Raises:
            WireError: an audio format, a rate or a speed that is not supported.
            SettingsError: a value is out of range.
        """
        audio_input = patch.audio.input if patch.audio else None
        audio_output = patch.audio.output if patch.audio else None
        _require_output_pcm(patch, audio_output)
        longest = patch.max_output_tokens
        config = replace(
            self,
            # Agents without instructions send empty ones, which no model was trained with.
            instructions=patch.instructions or self.instructions,
            sampling=SamplingConfig(
                _given(patch.temperature, self.sampling.temperature),
                _given(patch.top_k, self.sampling.top_k),
            ),
            input_rate_hz=_given(_requested_rate(patch, audio_input), self.input_rate_hz),
            seed=_given(patch.seed, self.seed),
            max_output_tokens=_given(None if longest == "inf" else longest, self.max_output_tokens),
            decision_bias=_given(_requested_bias(patch, audio_input), self.decision_bias),
            turn_taking=_merged_turn_taking(self.turn_taking, audio_input),
            modality=_given(_requested_modality(patch), self.modality),
            voice=_given(_requested_voice(patch, audio_output), self.voice),
            speed=_given(audio_output.speed if audio_output else None, self.speed),
        )
        # Whatever turn taking says, a bias that cannot be is refused.
        replace(config.settings(), decision_bias=config.decision_bias)
        return config

    def settings(self) -> SessionSettings:
        """The part that is the engine's."""
        replies_itself = self.turn_taking.create_response
        return SessionSettings(
            sampling=self.sampling,
            system_prompt=self.instructions,
            seed=self.seed,
            max_reply_tokens=self.max_output_tokens,
            decision_bias=self.decision_bias if replies_itself else ONLY_WHEN_ASKED,
        )


def _given(wanted: Value | None, current: Value) -> Value:
    return current if wanted is None else wanted


def _merged_turn_taking(current: TurnSettings, audio_input: AudioInput | None) -> TurnSettings:
    if audio_input is None or "turn_detection" not in audio_input.model_fields_set:
        return current
    if audio_input.turn_detection is None:
        return NO_TURN_TAKING
    base = TurnSettings() if current == NO_TURN_TAKING else current
    return base.merged(audio_input.turn_detection)


def _requested_bias(patch: SessionPatch, audio_input: AudioInput | None) -> float | None:
    if patch.decision_bias is not None:
        return patch.decision_bias
    detection = audio_input.turn_detection if audio_input else None
    if detection is None or detection.eagerness is None:
        return None
    return _EAGERNESS_BIAS[detection.eagerness]


def _requested_modality(patch: SessionPatch) -> Modality | None:
    """Spoken replies always have a transcript, so `audio` includes `text`."""
    wanted = patch.output_modalities if patch.output_modalities is not None else patch.modalities
    if not wanted:
        return None
    return "audio" if "audio" in wanted else "text"


def _requested_voice(patch: SessionPatch, audio_output: AudioOutput | None) -> str | None:
    voice = audio_output.voice if audio_output and audio_output.voice else patch.voice
    return voice.id if isinstance(voice, CustomVoice) else voice


def _requested_rate(patch: SessionPatch, audio_input: AudioInput | None) -> int | None:
    """The input rate that a patch asks for, in Hz, wherever it says so."""
    if patch.input_audio_format is not None:
        _require_pcm(patch.input_audio_format, "session.input_audio_format")
    if audio_input is not None and audio_input.format is not None:
        _require_pcm(audio_input.format.type, "session.audio.input.format.type")
        _require_mono(audio_input.format.channels, "session.audio.input.format.channels")
        if audio_input.format.rate is not None:
            return audio_input.format.rate
    if audio_input is not None and audio_input.sample_rate_hz is not None:
        return audio_input.sample_rate_hz
    return patch.sample_rate_hz


def _require_output_pcm(patch: SessionPatch, audio_output: AudioOutput | None) -> None:
    if patch.output_audio_format is not None:
        _require_pcm(patch.output_audio_format, "session.output_audio_format")
    if audio_output is None:
        return
    wanted = audio_output.format or AudioFormat()
    _require_pcm(wanted.type, "session.audio.output.format.type")
    _require_mono(wanted.channels, "session.audio.output.format.channels")
    for rate_hz, param in (
        (wanted.rate, "session.audio.output.format.rate"),
        (audio_output.sample_rate_hz, "session.audio.output.sample_rate_hz"),
    ):
        if rate_hz not in (None, GA_RATE_HZ):
            raise WireError(
                f"spoken replies are sampled at {GA_RATE_HZ} Hz, not at {rate_hz}",
                "unsupported_audio_format",
                param,
            )


def _require_pcm(name: str, param: str) -> None:
    if name not in _PCM_FORMATS:
        raise WireError(
            f"audio must be audio/pcm (16 bit, mono), not {name[:64]!r}",
            "unsupported_audio_format",
            param,
        )


def _require_mono(num_channels: int | None, param: str) -> None:
    if num_channels not in (None, 1):
        raise WireError(
            f"audio must be mono, not of {num_channels} channels", "unsupported_audio_format", param
        )
