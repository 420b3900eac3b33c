"""The configuration of a connection: what a client may set, and what is in force."""

from dataclasses import dataclass
from typing import TypeVar

from backend.config import SamplingConfig, SessionSettings
from backend.realtime.client_events import SessionPatch
from backend.realtime.errors import WireError

GA_RATE_HZ = 24_000
"""What `audio/pcm` means in the OpenAI Realtime API."""
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000

Value = TypeVar("Value")

_PCM_FORMATS = ("audio/pcm", "pcm16")


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What is in force for one connection."""

    instructions: str
    sampling: SamplingConfig
    input_rate_hz: int = GA_RATE_HZ
    seed: int = 0
    max_output_tokens: int = SessionSettings().max_reply_tokens

    def __post_init__(self) -> None:
        if not MIN_RATE_HZ <= self.input_rate_hz <= MAX_RATE_HZ:
            raise WireError(
                f"the sample rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz, "
                f"not {self.input_rate_hz}",
                "invalid_value",
                "session.audio.input.format.rate",
            )

    def merged(self, patch: SessionPatch) -> "SessionConfig":
        """This configuration with a client's changes.

        Raises:
            WireError: an audio format or a rate that is not supported.
            SettingsError: a value is out of range.
        """
        longest = patch.max_output_tokens
        return SessionConfig(
            instructions=_given(patch.instructions, self.instructions),
            sampling=SamplingConfig(
                _given(patch.temperature, self.sampling.temperature),
                _given(patch.top_k, self.sampling.top_k),
            ),
            input_rate_hz=_given(_requested_rate(patch), self.input_rate_hz),
            seed=_given(patch.seed, self.seed),
            max_output_tokens=_given(None if longest == "inf" else longest, self.max_output_tokens),
        )

    def settings(self) -> SessionSettings:
        """The part that the engine fixes when it opens a session."""
        return SessionSettings(
            sampling=self.sampling,
            system_prompt=self.instructions,
            seed=self.seed,
            max_reply_tokens=self.max_output_tokens,
        )


def _given(wanted: Value | None, current: Value) -> Value:
    return current if wanted is None else wanted


def _requested_rate(patch: SessionPatch) -> int | None:
    """The input rate that a patch asks for, in Hz, wherever it says so."""
    if patch.input_audio_format is not None:
        _require_pcm(patch.input_audio_format, "session.input_audio_format")
    audio_input = patch.audio.input if patch.audio else None
    if audio_input is not None and audio_input.format is not None:
        _require_pcm(audio_input.format.type, "session.audio.input.format.type")
        if audio_input.format.rate is not None:
            return audio_input.format.rate
    if audio_input is not None and audio_input.sample_rate_hz is not None:
        return audio_input.sample_rate_hz
    return patch.sample_rate_hz


def _require_pcm(name: str, param: str) -> None:
    if name not in _PCM_FORMATS:
        raise WireError(
            f"audio must be audio/pcm (16 bit, mono), not {name[:64]!r}",
            "unsupported_audio_format",
            param,
        )
