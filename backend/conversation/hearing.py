"""What the client's audio holds: chunks for the model, voices, and the echo of our own replies.

Times are seconds of the client's audio.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from backend.audio import Samples
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.echo import EchoDetector
from backend.conversation.input_audio import InputAudio, TimedSamples
from backend.conversation.overlap import OverlapOutcome, OverlapPolicy, OverlapState
from backend.conversation.timeline import Timeline
from backend.conversation.voice_activity import SpeechDetector, VoiceDetection, VoiceEvent

PROMPTED_SECONDS = 3.0
"""A reply that begins so long after speech ended does not answer it."""


@dataclass(frozen=True, slots=True)
class InputChunk:
    """A chunk for the model, with all that is known of it before the model hears it."""

    samples: Samples
    """`[6400]`; silence where it was our own voice coming back."""
    number: int
    seconds: float
    """Where it ends."""
    arrived_at: float
    """When it was complete, in seconds of the clock."""
    speech_end_seconds: float | None
    """Where the speech ended, or has got to, that a reply to it answers; None for none lately."""
    is_added: bool
    """Whether it is of an input that the client added, and not of its live audio."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What some audio told."""

    outcomes: list[OverlapOutcome]
    chunks: list[InputChunk]


class Hearing:
    """Hears all that a client sends, as it comes.

    Args:
        timeline: of the conversation.
        rate_hz: of the client's audio.
        clock: for when chunks are complete.
    """

    def __init__(self, timeline: Timeline, rate_hz: int, clock: Callable[[], float]) -> None:
        self._timeline = timeline
        self._clock = clock
        self._input = InputAudio(timeline, rate_hz)
        self._detector = SpeechDetector()
        self._echo = EchoDetector()
        self._policy = OverlapPolicy(self._echo.is_echo)

    def recall(self, samples: Samples) -> None:
        """What came last, `[n]` at 16 kHz, another has heard, and told what it tells."""
        start_seconds = self._timeline.now_seconds - len(samples) / SAMPLE_RATE_HZ
        self._detector.begin_at(start_seconds)
        self._echo.begin_at(start_seconds)
        self._echo.hear(samples)
        self._detector.push(samples)

    def let_interrupt(self, may_interrupt: bool) -> None:
        """Whether a voice may hold and stop a spoken reply."""
        self._policy.may_interrupt = may_interrupt

    def append(self, pcm: bytes, reply_plays: bool) -> Heard:
        """More of the client's PCM16, while a spoken reply plays or not."""
        return self._hear(self._input.resample(pcm), reply_plays)

    async def append_live(self, pcm: bytes, reply_plays: bool, detection: VoiceDetection) -> Heard:
        """As `append`, where voices are judged together with those of other conversations."""
        samples = self._input.resample(pcm)
        self._arrive(samples, reply_plays)
        events = await detection.push(self._detector, samples)
        return self._heard(samples, self._outcomes(events))

    def drain(self, reply_plays: bool, rate_hz: int | None = None) -> Heard:
        """What the filter still holds; what comes afterwards is sampled at `rate_hz`."""
        return self._hear(self._input.drain(rate_hz), reply_plays)

    def discard(self, reply_plays: bool) -> list[OverlapOutcome]:
        """Leave out what does not fill a chunk: the model does not hear it, the rest does."""
        outcomes = self._listen(self._input.drain(), reply_plays)
        self._input.discard()
        return outcomes

    def pad(self) -> InputChunk | None:
        """The chunk that waits, filled up with silence, if one does."""
        rest = self._input.pad()
        return None if rest is None else self._live_chunk(rest)

    def silence(self) -> InputChunk:
        """A chunk of silence that takes none of the client's time."""
        return self._live_chunk(self._input.silence())

    def added_silence(self) -> InputChunk:
        """The same after an input that the client added, for which live audio waits."""
        seconds = self._timeline.chunked_seconds
        samples = np.zeros(CHUNK_SAMPLES, np.float32)
        return self._added_chunk(samples, self._speech_end_before(seconds))

    def add(self, samples: Samples) -> InputChunk:
        """A chunk `[6400]` of an input that the client added: speech that ends where it is put."""
        return self._added_chunk(samples, self._timeline.chunked_seconds)

    def note_reply(self, plays: bool) -> None:
        """A spoken reply begins or ends to be generated or played."""
        if plays:
            self._policy.reply_started()
        else:
            self._policy.reply_ended()

    def client_stops(self) -> list[OverlapOutcome]:
        """The client itself stopped the reply."""
        return self._policy.client_stops(self._timeline.now_seconds)

    def reply_sounds(self, turn: int, pcm: bytes) -> None:
        """More of a spoken reply, PCM16 at 24 kHz, was sent."""
        self._echo.add_reply(turn, pcm)

    def reply_played(self, turn: int, played_ms: float, at_seconds: float) -> None:
        """So much of a reply had been played when the client's audio had come so far."""
        self._echo.played(turn, played_ms / 1000, at_seconds)

    def _hear(self, samples: Samples, reply_plays: bool) -> Heard:
        return self._heard(samples, self._listen(samples, reply_plays))

    def _listen(self, samples: Samples, reply_plays: bool) -> list[OverlapOutcome]:
        """Voices in samples `[n]` at 16 kHz."""
        self._arrive(samples, reply_plays)
        return self._outcomes(self._detector.push(samples))

    def _arrive(self, samples: Samples, reply_plays: bool) -> None:
        if reply_plays:
            self._policy.reply_started()
        elif self._policy.state is not OverlapState.IDLE:
            self._policy.reply_ended()
        self._timeline.hear(len(samples))
        self._echo.hear(samples)

    def _outcomes(self, events: Iterable[VoiceEvent]) -> list[OverlapOutcome]:
        return [outcome for event in events for outcome in self._policy.hear(event)]

    def _heard(self, samples: Samples, outcomes: list[OverlapOutcome]) -> Heard:
        return Heard(outcomes, [self._live_chunk(chunk) for chunk in self._input.push(samples)])

    def _live_chunk(self, timed: TimedSamples) -> InputChunk:
        samples, end_seconds = timed
        # Also when no reply plays any more: its end still comes back from the room.
        if self._echo.is_echo(end_seconds - CHUNK_SECONDS, end_seconds):
            samples = np.zeros_like(samples)
        return InputChunk(
            samples,
            self._timeline.num_chunks - 1,
            end_seconds,
            self._clock(),
            self._speech_end_before(end_seconds),
            is_added=False,
        )

    def _added_chunk(self, samples: Samples, speech_end_seconds: float | None) -> InputChunk:
        seconds = self._timeline.add_chunk()
        number = self._timeline.num_chunks - 1
        return InputChunk(
            samples, number, seconds, self._clock(), speech_end_seconds, is_added=True
        )

    def _speech_end_before(self, seconds: float) -> float | None:
        end_seconds = self._detector.speech_end_seconds
        if end_seconds is None or end_seconds < seconds - PROMPTED_SECONDS:
            return None
        return min(end_seconds, seconds)
