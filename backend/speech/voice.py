"""What a voice is, and how an emotion sounds in any of them: rate, pitch and volume."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Protocol

from backend.errors import SettingsError
from backend.protocol import Emotion

MIN_SPEED, MAX_SPEED = 0.25, 1.5
"""The range of the Realtime API's `speed`."""


@dataclass(frozen=True, slots=True)
class Prosody:
    """How a sentence is spoken, against the voice's own way."""

    rate_percent: int = 0
    """Faster (positive) or slower speech; 10 says a sentence in 1/1.1 of its time."""
    pitch_hz: int = 0
    """Higher (positive) or lower, for a voice of about 200 Hz; others move in proportion."""
    volume_percent: int = 0
    """Louder (positive) or softer."""

    def at_speed(self, speed: float) -> "Prosody":
        """The same emotion, `speed` times as fast.

        Raises:
            SettingsError: a speed out of range.
        """
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise SettingsError(f"speed must be between {MIN_SPEED} and {MAX_SPEED}, not {speed}")
        return replace(self, rate_percent=round((100 + self.rate_percent) * speed) - 100)


# Happy and surprised speech is higher and faster than neutral speech, sad speech lower, slower and
# softer, anger louder, urgency above all fast (Scherer 2003, "Vocal communication of emotion").
# The steps are wide enough to be heard, and small enough that no voice sounds like a caricature.
EMOTION_PROSODY = {
    Emotion.NORMAL: Prosody(),
    Emotion.HAPPY: Prosody(rate_percent=8, pitch_hz=25, volume_percent=5),
    Emotion.SAD: Prosody(rate_percent=-18, pitch_hz=-25, volume_percent=-25),
    Emotion.ANGRY: Prosody(rate_percent=6, pitch_hz=-12, volume_percent=25),
    Emotion.SURPRISE: Prosody(rate_percent=4, pitch_hz=45, volume_percent=10),
    Emotion.URGENT: Prosody(rate_percent=25, pitch_hz=15, volume_percent=20),
}


def prosody_of(emotion: Emotion | None, speed: float = 1.0) -> Prosody:
    """How a reply with `emotion` is spoken; None is neutral.

    Raises:
        SettingsError: a speed out of range.
    """
    return EMOTION_PROSODY[emotion or Emotion.NORMAL].at_speed(speed)


class Voice(Protocol):
    """Something that says sentences. Creating one does no work: it speaks, or fails, when asked."""

    @property
    def id(self) -> str:
        """What a client asks for: `espeak:en-us`."""

    @property
    def label(self) -> str:
        """Its name for people."""

    @property
    def language(self) -> str:
        """As in BCP 47: `en-US`."""

    @property
    def is_online(self) -> bool:
        """Whether the text leaves this machine."""

    @property
    def failure(self) -> str | None:
        """Why it cannot speak for now; None where it can, as far as is known."""

    def synthesize(self, text: str, prosody: Prosody) -> AsyncGenerator[bytes, None]:
        """`text` as PCM16 mono at 24 kHz, in blocks, as they come; closing it stops the work.

        Raises:
            VoiceUnavailableError: it cannot speak now.
        """
