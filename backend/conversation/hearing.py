"""What the client's audio and inputs hold: chunks for the model, voices, echoes of our replies.

Times are seconds of the client's audio.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from backend.audio import Chunker, Resampler, Samples, pcm16_to_float
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.commands import AddInput, GivenSound, GivenText
from backend.conversation.echo import EchoDetector
from backend.conversation.overlap import OverlapOutcome, OverlapPolicy
from backend.conversation.timeline import Timeline
from backend.conversation.voice_activity import SpeechDetector, VoiceDetection, VoiceEvent
from backend.speech import Voices

PAUSE_SECONDS = 0.8
"""Of silence after what is added: how a listener tells that it is over."""
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
        rate_hz: of the client's audio.
        clock: for when chunks are complete.
    """

    def __init__(self, timeline: Timeline, rate_hz: int, clock: Callable[[], float]) -> None:
        self.echo = EchoDetector()
        """Is told what is said, and what of it the client plays."""
        self.overlap = OverlapPolicy(self.echo.is_echo)
        """Is told of replies that play."""
        self._timeline = timeline
        self._clock = clock
        self._rate_hz = rate_hz
        self._resampler = Resampler(rate_hz)
        self._chunker = Chunker()
        self._detector = SpeechDetector()

    def recall(self, samples: Samples) -> None:
        """What came last, `[n]` at 16 kHz, another has heard, and told what it tells."""
        start_seconds = self._timeline.now_seconds - len(samples) / SAMPLE_RATE_HZ
        self._detector.begin_at(start_seconds)
        self.echo.begin_at(start_seconds)
        self.echo.hear(samples)
        self._detector.push(samples)

    async def append(self, pcm: bytes, reply_plays: bool, detection: VoiceDetection) -> Heard:
        """More of the client's PCM16, while a spoken reply plays or not.

        Voices are judged together with those of other conversations.
        """
        samples = self._resampler.process(pcm16_to_float(pcm))
        self._arrive(samples, reply_plays)
        outcomes = self._outcomes(await detection.push(self._detector, samples))
        return Heard(outcomes, list(self._chunks(samples)))

    def drain(self, reply_plays: bool, rate_hz: int | None = None) -> Heard:
        """What the filter still holds; what comes afterwards is sampled at `rate_hz`."""
        samples = self._drained(rate_hz)
        return Heard(self._listen(samples, reply_plays), list(self._chunks(samples)))

    def discard(self, reply_plays: bool) -> list[OverlapOutcome]:
        """Leave out what does not fill a chunk: the model does not hear it, the rest does."""
        outcomes = self._listen(self._drained(), reply_plays)
        self._timeline.discard()
        self._chunker = Chunker()
        return outcomes

    def pad(self) -> InputChunk | None:
        """The chunk that waits, filled up with silence, if one does."""
        rest = self._chunker.flush()
        return None if rest is None else self._live_chunk(rest, self._timeline.pad_chunk())

    def silence(self) -> InputChunk:
        """A chunk of silence that takes none of the client's time."""
        return self._live_chunk(_silence(), self._timeline.insert_silence())

    def added_silence(self) -> InputChunk:
        """The same after an input that the client added, for which live audio waits."""
        seconds = self._timeline.chunked_seconds
        return self._added_chunk(_silence(), self._speech_end_before(seconds))

    def add(self, samples: Samples) -> InputChunk:
        """A chunk `[6400]` of an input that the client added: speech that ends where it is put."""
        return self._added_chunk(samples, self._timeline.chunked_seconds)

    def _listen(self, samples: Samples, reply_plays: bool) -> list[OverlapOutcome]:
        """Voices in samples `[n]` at 16 kHz."""
        self._arrive(samples, reply_plays)
        return self._outcomes(self._detector.push(samples))

    def _arrive(self, samples: Samples, reply_plays: bool) -> None:
        if reply_plays:
            self.overlap.reply_started()
        else:
            self.overlap.reply_ended()
        self._timeline.hear(len(samples))
        self.echo.hear(samples)

    def _outcomes(self, events: Iterable[VoiceEvent]) -> list[OverlapOutcome]:
        return [outcome for event in events for outcome in self.overlap.hear(event)]

    def _drained(self, rate_hz: int | None = None) -> Samples:
        held = self._resampler.flush()
        self._rate_hz = rate_hz or self._rate_hz
        self._resampler = Resampler(self._rate_hz)
        return held

    def _chunks(self, samples: Samples) -> Iterator[InputChunk]:
        """Those that more samples at 16 kHz complete."""
        for chunk in self._chunker.push(samples):
            yield self._live_chunk(chunk, self._timeline.fill_chunk())

    def _live_chunk(self, samples: Samples, end_seconds: float) -> InputChunk:
        # Also when no reply plays any more: its end still comes back from the room.
        if self.echo.is_echo(end_seconds - CHUNK_SECONDS, end_seconds):
            samples = _silence()
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


def _silence() -> Samples:
    return np.zeros(CHUNK_SAMPLES, np.float32)


async def chunks_of_input(added: AddInput, voices: Voices, rate_hz: int) -> list[Samples]:
    """What the model hears of an input: chunks `[6400]`, and none where it has no parts.

    Its text is read aloud: the model's sequence has no place for text that it was trained with, and
    every checkpoint hears.

    Args:
        rate_hz: of the input's sound.

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


async def _sound(part: GivenText | GivenSound, voices: Voices, rate_hz: int) -> Samples:
    match part:
        case GivenText():
            return await voices.read_aloud(part.text)
        case GivenSound():
            resampler = Resampler(rate_hz)
            heard = resampler.process(pcm16_to_float(part.pcm))
            return np.concatenate([heard, resampler.flush()])
