"""Constants of the program and of the model's audio front end, and settings of the engine."""

import math
from dataclasses import dataclass
from enum import IntEnum

from backend.errors import SettingsError

VERSION = "0.1.0"
"""Of this program."""
CONNECTIONS_PER_ADDRESS = 256
"""Of a server's, as many are open from one address: a few dozen browsers behind one router."""

SAMPLE_RATE_HZ = 16_000
"""Of what the model hears."""
SPEECH_RATE_HZ = 24_000
"""Of spoken replies: the Realtime API's."""
HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
NUM_MEL_BINS = 128
MEL_FRAMES_PER_CHUNK = 40
MEL_FRAMES_PER_FEATURE = 4
FEATURES_PER_CHUNK = MEL_FRAMES_PER_CHUNK // MEL_FRAMES_PER_FEATURE
CHUNK_SAMPLES = MEL_FRAMES_PER_CHUNK * HOP_SAMPLES
CHUNK_SECONDS = CHUNK_SAMPLES / SAMPLE_RATE_HZ
PACE = 0.9 * CHUNK_SECONDS
"""A client may send its chunks as fast as that and have each heard as soon as the others'.

A little faster than they are spoken, so that a client whose clock is fast is not left behind.
"""

# Previous token, AUDIO_BEGIN, the features, ASSISTANT.
LISTENING_POSITIONS = 1 + 1 + FEATURES_PER_CHUNK + 1

RELEASED_SYSTEM_PROMPT = (
    "You are a helpful assistant. When there is no user text, if the audio contains a question, "
    "please answer it. If it is a sound effect, determine based on the sound whether help is "
    "needed."
)


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are drawn. Temperature 0 is greedy; defaults are the model card's.

    Raises:
        SettingsError: a value is out of range.
    """

    temperature: float = 0.3
    top_k: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise SettingsError(f"temperature must be between 0 and 2, not {self.temperature}")
        if not 1 <= self.top_k <= 1000:
            raise SettingsError(f"top-k must be between 1 and 1000, not {self.top_k}")


GREEDY = SamplingConfig(temperature=0.0, top_k=1)

MAX_PROMPT_CHARACTERS = 32_768
"""More than the largest context has room for."""
MAX_DECISION_BIAS = 8.0
ONLY_WHEN_ASKED = -math.inf
"""The decision bias of a model that replies on request alone."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What one conversation may choose; None takes the checkpoint's default.

    All of it may change while it goes on.

    Raises:
        SettingsError: a value is out of range.
    """

    sampling: SamplingConfig | None = None
    system_prompt: str | None = None
    seed: int = 0
    max_reply_tokens: int = 512
    decision_bias: float = 0.0
    """Added to the logit of speaking at each decision, in nats: above 0 eager, below 0 shy.

    At most 8 either way, or `ONLY_WHEN_ASKED`.
    """

    def __post_init__(self) -> None:
        # Not first when it is in tokens: to count those of megabytes takes half a minute.
        num_characters = len(self.system_prompt or "")
        if num_characters > MAX_PROMPT_CHARACTERS:
            raise SettingsError(
                f"the system prompt is too long: {num_characters} characters, at most "
                f"{MAX_PROMPT_CHARACTERS}"
            )
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"seed must be between 0 and 2^63 - 1, not {self.seed}")
        if not 1 <= self.max_reply_tokens <= 4096:
            raise SettingsError(
                f"the longest reply must be between 1 and 4096 tokens, not {self.max_reply_tokens}"
            )
        is_in_range = abs(self.decision_bias) <= MAX_DECISION_BIAS
        if not is_in_range and self.decision_bias != ONLY_WHEN_ASKED:
            raise SettingsError(
                f"the decision bias must be between -{MAX_DECISION_BIAS:g} and "
                f"{MAX_DECISION_BIAS:g}, not {self.decision_bias}"
            )


class Bits(IntEnum):
    """Of a weight that is multiplied with."""

    SIXTEEN = 16
    """As the number format says, which may be one of 32 bits."""
    EIGHT = 8
    FOUR = 4
    """In the language model's layers; 8 in the rest, which is small and does not bear it well."""

    @property
    def of_the_rest(self) -> "Bits":
        """Those of the audio tower, the embedding and the head."""
        return max(self, Bits.EIGHT)


BLOCK = 64
"""Quantised weights of a row that share a scale."""


def number_format(dtype: str, bits: int) -> str:
    """What a model is computed in, in words: `float32`, `float32 with 8-bit weights`."""
    return dtype if bits == Bits.SIXTEEN else f"{dtype} with {bits}-bit weights"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Size of the engine: sessions side by side, and the context each may use."""

    num_slots: int = 8
    max_positions: int | None = None
    """Positions of one session's context; None takes the checkpoint's own limit."""
    max_pending_chunks: int = 50
    """Chunks a session may be ahead of the model before its feeder has to wait."""
    num_threads: int | None = None
    """CPU threads of a step; None takes one for a small model and the machine's for a large."""
    least_patience_seconds: float = 30.0
    """A step that takes longer may hang; on a slow machine it may take longer still."""
