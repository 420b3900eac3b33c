"""Sound as a client sends it, and inputs that it adds: text is read to the model, sound is heard.

The model's sequence has no place for text that it was trained with, and every checkpoint hears.
"""

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import SAMPLE_RATE_HZ
from backend.conversation.commands import AddInput, GivenSound, GivenText
from backend.speech import Voices

PCM16_BYTES = 2
"""Of one sample."""
PAUSE_SECONDS = 0.8
"""Of silence after what is added: how a listener tells that it is over."""


def pcm_seconds(pcm: bytes, rate_hz: int) -> float:
    """How long PCM16 bytes last."""
    return len(pcm) / PCM16_BYTES / rate_hz


async def chunks_of_input(added: AddInput, voices: Voices, rate_hz: int) -> list[Samples]:
    """What the model hears of an input: chunks `[6400]`, and none where it has no parts.

    Args:
        added: the input.
        voices: read its text.
        rate_hz: of its sound.

    Raises:
        TextInputError: its text cannot be read aloud.
        VoiceUnavailableError: no voice can read it.
    """
    if not added.parts:
        return []
    sounds = [await _sound(part, voices, rate_hz) for part in added.parts]
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE_HZ), np.float32)
    chunker = Chunker()
    chunks = list(chunker.push(np.concatenate([*sounds, pause])))
    if (rest := chunker.flush()) is not None:
        chunks.append(rest)
    return chunks


def typed_text(added: AddInput) -> str:
    """What of an input is read aloud; empty where it is only heard."""
    return " ".join(part.text for part in added.parts if isinstance(part, GivenText) and part.text)


async def _sound(part: GivenText | GivenSound, voices: Voices, rate_hz: int) -> Samples:
    match part:
        case GivenText():
            return await voices.read_aloud(part.text)
        case GivenSound():
            resampler = Resampler(rate_hz)
            heard = resampler.process(pcm16_to_float(part.pcm))
            return np.concatenate([heard, resampler.flush()])
