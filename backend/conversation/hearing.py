"""What the client's audio holds besides what the model makes of it: voices, and our own echo.

Times are seconds of the client's audio.
"""

import numpy as np

from backend.audio import Samples
from backend.config import CHUNK_SECONDS
from backend.conversation.echo import EchoDetector
from backend.conversation.overlap import OverlapOutcome, OverlapPolicy
from backend.conversation.voice_activity import SpeechDetector

PROMPTED_SECONDS = 3.0
"""A reply that begins so long after speech ended does not answer it."""


class Hearing:
    """Hears all that a client sends, as it comes."""

    def __init__(self) -> None:
        self._detector = SpeechDetector()
        self._echo = EchoDetector()
        self._policy = OverlapPolicy(self._echo.is_echo)

    @property
    def heard_seconds(self) -> float:
        """How much the client has sent, but for less than a window of the voice detector."""
        return self._detector.heard_seconds

    def let_interrupt(self, may_interrupt: bool) -> None:
        """Whether a voice may hold and stop a spoken reply."""
        self._policy.may_interrupt = may_interrupt

    def hear(self, samples: Samples, reply_plays: bool) -> list[OverlapOutcome]:
        """More audio `[n]` at 16 kHz, while a spoken reply plays or not; what follows from it."""
        self.note_reply(reply_plays)
        self._echo.hear(samples)
        return [
            outcome
            for event in self._detector.push(samples)
            for outcome in self._policy.hear(event)
        ]

    def note_reply(self, plays: bool) -> None:
        """A spoken reply begins or ends to be generated or played."""
        if plays:
            self._policy.reply_started()
        else:
            self._policy.reply_ended()

    def client_stops(self) -> list[OverlapOutcome]:
        """The client itself stopped the reply."""
        return self._policy.client_stops(self.heard_seconds)

    def reply_sounds(self, response_id: str, pcm: bytes) -> None:
        """More of a spoken reply, PCM16 at 24 kHz, was sent."""
        self._echo.add_reply(response_id, pcm)

    def reply_played(self, response_id: str, played_ms: float, at_seconds: float) -> None:
        """So much of a reply had been played when the client's audio had come so far."""
        self._echo.played(response_id, played_ms / 1000, at_seconds)

    def without_echo(self, chunk: Samples, end_seconds: float) -> Samples:
        """The chunk `[6400]` that ends there, or silence where it is our own voice coming back.

        Also when no reply plays any more: its end still comes back from the room.
        """
        if self._echo.is_echo(end_seconds - CHUNK_SECONDS, end_seconds):
            return np.zeros_like(chunk)
        return chunk

    def speech_end_before(self, seconds: float) -> float | None:
        """Where the latest speech ended, or has got to; None where there was none lately."""
        end_seconds = self._detector.speech_end_seconds
        if end_seconds is None or end_seconds < seconds - PROMPTED_SECONDS:
            return None
        return min(end_seconds, seconds)
