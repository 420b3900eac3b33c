"""Whether what a client sends is our own voice coming back: loudspeaker, room and microphone.

An echo is the reply, later and weaker, coloured by the loudspeaker and blurred by the room. How the
energy of each band rises and falls survives that, so it is compared, at every delay there may be.
Times are seconds of the client's audio but where they are said to be a reply's.
"""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backend.audio import Samples, pcm16_to_float
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ

FRAMES_PER_SECOND = 100
FRAMES_PER_WINDOW = 2
"""A frame looks at 20 ms and the next begins 10 ms later, at any rate."""
BIN_HZ = FRAMES_PER_SECOND // FRAMES_PER_WINDOW
BAND_EDGES_HZ = (200, 400, 600, 850, 1150, 1500, 1900, 2400, 3000, 3700, 4600, 5700, 7000)
NUM_BANDS = len(BAND_EDGES_HZ) - 1

REPLY_RANGE_DB = 30.0
"""What is this far below a band's loudest moment is not heard."""
NOISE_PERCENTILE = 10
"""Of the energies of a band, what is taken for the noise."""
SMALLEST_ENERGY = 1e-12
"""Keeps logarithms finite; far below a step of 16 bits."""

NUM_REPLIES = 2
"""The one that plays, and the one that comes next or came before."""
NUM_POSITIONS = 64
"""More than a client tells in the time that matters."""
INPUT_SECONDS = 2.0
"""Of input are kept, and the longest delay."""

ENOUGH_BEFORE = 0.05
"""Of the energy of a stretch, what must have been played before it to tell how loud echoes are."""
STEADY_DB2 = 1e-3
"""Levels that vary less than this do not vary."""

MIN_SIMILARITY = 0.62
"""Of what is called an echo."""
MAX_EXCESS_DB = 3.0
"""How much louder than the echo before it an echo may be; else a voice speaks over it."""
EARLIEST_SECONDS = -0.05
"""How early an echo may seem, as a client's word for when it plays is not exact."""
LATEST_SECONDS = 0.5
"""How late it may be: both sound cards and the room."""
CONTEXT_SECONDS = 1.0
"""A short stretch says too little, and is compared together with what comes before it."""
CONTEXT_WEIGHT = 0.1
"""What a moment of that counts, when one of the stretch counts 1."""
LONGEST_REPLY_SECONDS = 300.0
"""So much of a reply is known; what comes after is not recognised."""
KEPT_SECONDS = INPUT_SECONDS + LATEST_SECONDS
NUM_KEPT_SAMPLES = round(KEPT_SECONDS * SAMPLE_RATE_HZ)

Energies = npt.NDArray[np.float32]
"""Of frames and bands, `[n, 12]`."""
Levels = npt.NDArray[np.float64]
"""The same in decibels."""


@dataclass(frozen=True, slots=True)
class EchoMatch:
    """How a stretch of input fits what was played."""

    similarity: float
    """Correlation of levels over time, within bands; -1 to 1."""
    delay_seconds: float
    """From playing to hearing, where they fit best."""
    excess_db: float | None
    """How much louder the stretch is than what came before it lets an echo be; None where nothing
    was played before."""


@dataclass(frozen=True, slots=True)
class _Position:
    """How much of a reply had been played at a time."""

    input_seconds: float
    turn: int
    reply_seconds: float


class _ReplySound:
    """The energies of a reply, as far as they are known and still matter."""

    def __init__(self) -> None:
        self._rest: Samples = np.empty(0, np.float32)
        self._first_frame = 0
        self._energies: Energies = np.empty((0, NUM_BANDS), np.float32)

    @property
    def seconds(self) -> float:
        """How much of the reply has been given."""
        return (self._first_frame + len(self._energies)) / FRAMES_PER_SECOND

    def append(self, samples: Samples) -> None:
        """The next piece `[n]`."""
        waiting = np.concatenate([self._rest, samples])
        energies = _energies(waiting, SPEECH_RATE_HZ)
        self._rest = waiting[len(energies) * SPEECH_RATE_HZ // FRAMES_PER_SECOND :].copy()
        self._energies = np.concatenate([self._energies, energies])

    def forget_before(self, reply_seconds: float) -> None:
        """What was played long ago has no echo any more."""
        past = max(0, math.floor(reply_seconds * FRAMES_PER_SECOND) - self._first_frame)
        self._first_frame += min(past, len(self._energies))
        self._energies = self._energies[past:].copy()

    def at(self, reply_seconds: npt.NDArray[np.float64]) -> Energies:
        """The energies at times `[n]` of the reply; zero where there is nothing."""
        places = np.rint(reply_seconds * FRAMES_PER_SECOND) - self._first_frame
        is_known = (places >= 0) & (places < len(self._energies))
        found: Energies = np.zeros((len(places), NUM_BANDS), np.float32)
        found[is_known] = self._energies[places[is_known].astype(np.int64)]
        return found


class EchoDetector:
    """Knows what our replies sound like and when they were played, and recognises them.

    It keeps the last two replies, and about two seconds of input.
    """

    def __init__(self) -> None:
        self._replies: OrderedDict[int, _ReplySound] = OrderedDict()
        self._positions: deque[_Position] = deque(maxlen=NUM_POSITIONS)
        # The latest input; it is moved to the front where there is no room behind it.
        self._input: Samples = np.empty(2 * NUM_KEPT_SAMPLES, np.float32)
        self._num_input_samples = 0
        self._input_end_samples = 0

    def add_reply(self, turn: int, pcm: bytes) -> None:
        """The next piece of a reply, 16-bit mono at 24 kHz, as it was sent."""
        if turn not in self._replies:
            self._replies[turn] = _ReplySound()
            while len(self._replies) > NUM_REPLIES:
                self._replies.popitem(last=False)
        reply = self._replies[turn]
        if reply.seconds < LONGEST_REPLY_SECONDS:
            reply.append(pcm16_to_float(pcm))

    def played(self, turn: int, reply_seconds: float, input_seconds: float) -> None:
        """At `input_seconds` of input, `reply_seconds` of a reply had been played.

        Positions come in the order of the input; one that goes back in time is left out.
        """
        if self._positions and input_seconds < self._positions[-1].input_seconds:
            return
        self._positions.append(_Position(input_seconds, turn, reply_seconds))
        if (reply := self._replies.get(turn)) is not None:
            reply.forget_before(reply_seconds - KEPT_SECONDS)

    def begin_at(self, seconds: float) -> None:
        """What is heard first is not the beginning of the input."""
        self._input_end_samples = round(seconds * SAMPLE_RATE_HZ)

    def hear(self, samples: Samples) -> None:
        """More input `[n]` at 16 kHz."""
        self._input_end_samples += len(samples)
        samples = samples[-NUM_KEPT_SAMPLES:]
        if self._num_input_samples + len(samples) > len(self._input):
            kept = self._kept_input()
            self._input[: len(kept)] = kept
            self._num_input_samples = len(kept)
        end = self._num_input_samples + len(samples)
        self._input[self._num_input_samples : end] = samples
        self._num_input_samples = end

    def is_echo(self, start_seconds: float, end_seconds: float) -> bool:
        """Whether this stretch of input is mostly our own voice."""
        match = self.match(start_seconds, end_seconds)
        if match is None or match.similarity < MIN_SIMILARITY:
            return False
        return match.excess_db is None or match.excess_db <= MAX_EXCESS_DB

    def match(self, start_seconds: float, end_seconds: float) -> EchoMatch | None:
        """How a stretch fits what was played; None where nothing was, or it is not kept."""
        if not self._positions or not self._replies:
            return None
        first_sample, heard = self._heard(
            min(start_seconds, end_seconds - CONTEXT_SECONDS), end_seconds
        )
        num_frames = _num_frames(len(heard), SAMPLE_RATE_HZ)
        if not num_frames:
            return None
        earliest = round(EARLIEST_SECONDS * FRAMES_PER_SECOND)
        latest = round(LATEST_SECONDS * FRAMES_PER_SECOND)
        times = first_sample / SAMPLE_RATE_HZ + (
            np.arange(-latest, num_frames - earliest) / FRAMES_PER_SECOND
        )
        played = self._played_at(times)
        if not played.any():
            return None
        heard_energies = _energies(heard, SAMPLE_RATE_HZ)
        num_context = round((start_seconds - times[latest]) * FRAMES_PER_SECOND)
        num_context = max(0, min(num_context, num_frames - 1))
        weights = np.ones(num_frames)
        weights[:num_context] = CONTEXT_WEIGHT
        similarities = _similarities(_heard_levels(heard_energies), _played_levels(played), weights)
        best = int(similarities.argmax())
        return EchoMatch(
            float(similarities[best]),
            (latest - best) / FRAMES_PER_SECOND,
            _excess_db(heard_energies, played[best : best + num_frames], num_context),
        )

    def _heard(self, start_seconds: float, end_seconds: float) -> tuple[int, Samples]:
        kept = self._kept_input()
        input_start = self._input_end_samples - len(kept)
        first = max(input_start, round(start_seconds * SAMPLE_RATE_HZ))
        end = round(end_seconds * SAMPLE_RATE_HZ)
        return first, kept[first - input_start : max(0, end - input_start)]

    def _kept_input(self) -> Samples:
        end = self._num_input_samples
        return self._input[max(0, end - NUM_KEPT_SAMPLES) : end]

    def _played_at(self, times: npt.NDArray[np.float64]) -> Energies:
        """What was played at `times` of the input `[n]`."""
        found: Energies = np.zeros((len(times), NUM_BANDS), np.float32)
        for before, after in pairwise([None, *self._positions, None]):
            is_between = np.full(len(times), True)
            if before is not None:
                is_between &= times >= before.input_seconds
            if after is not None:
                is_between &= times < after.input_seconds
            if is_between.any():
                found[is_between] = self._played_between(before, after, times[is_between])
        return found

    def _played_between(
        self, before: _Position | None, after: _Position | None, times: npt.NDArray[np.float64]
    ) -> Energies:
        found: Energies = np.zeros((len(times), NUM_BANDS), np.float32)
        is_same_reply = before and after and before.turn == after.turn
        if before is not None and not is_same_reply:
            # As far as is known, it went on.
            since = times - before.input_seconds
            found = self._sound_of(before, before.reply_seconds + since)
        if after is not None:
            # It was played without a break until there, and perhaps stood still before.
            reply_seconds = after.reply_seconds - (after.input_seconds - times)
            is_played = reply_seconds >= (before.reply_seconds if before and is_same_reply else 0)
            found[is_played] = self._sound_of(after, reply_seconds[is_played])
        return found

    def _sound_of(self, position: _Position, reply_seconds: npt.NDArray[np.float64]) -> Energies:
        reply = self._replies.get(position.turn)
        if reply is None:
            return np.zeros((len(reply_seconds), NUM_BANDS), np.float32)
        return reply.at(reply_seconds)


def _num_frames(num_samples: int, rate_hz: int) -> int:
    """Whole frames in so many samples."""
    hop = rate_hz // FRAMES_PER_SECOND
    return max(0, num_samples // hop - FRAMES_PER_WINDOW + 1)


def _energies(samples: Samples, rate_hz: int) -> Energies:
    """Of the whole frames in `samples` `[n]`."""
    hop = rate_hz // FRAMES_PER_SECOND
    size = hop * FRAMES_PER_WINDOW
    if len(samples) < size:
        return np.empty((0, NUM_BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    spectrum = np.fft.rfft(frames * np.hanning(size) / size, axis=1)
    edges = [edge // BIN_HZ for edge in BAND_EDGES_HZ]
    bands = np.add.reduceat(np.abs(spectrum) ** 2, edges, axis=1)
    return bands[:, :-1].astype(np.float32)


def _heard_levels(energies: Energies) -> Levels:
    """Decibels above the noise, which hides what is below."""
    noise = np.percentile(energies, NOISE_PERCENTILE, axis=0)
    levels: Levels = 10 * np.log10(energies + 2 * noise + SMALLEST_ENERGY)
    return levels


def _played_levels(energies: Energies) -> Levels:
    """Decibels above what is too weak to be heard beside the loudest moment."""
    hidden = energies.max(axis=0) * 10 ** (-REPLY_RANGE_DB / 10)
    levels: Levels = 10 * np.log10(energies + hidden + SMALLEST_ENERGY)
    return levels


def _excess_db(heard: Energies, played: Energies, num_context: int) -> float | None:
    """How much louder the end of `heard` `[n, 12]` is than its beginning says of an echo."""
    audible = np.maximum(heard - np.percentile(heard, NOISE_PERCENTILE, axis=0), 0)
    played_before, played_now = played[:num_context].sum(axis=0), played[num_context:].sum(axis=0)
    if played_before.sum() < ENOUGH_BEFORE * played_now.sum():
        return None
    gains = audible[:num_context].sum(axis=0) / (played_before + SMALLEST_ENERGY)
    expected = (gains * played_now).sum() + SMALLEST_ENERGY
    found = audible[num_context:].sum() + SMALLEST_ENERGY
    return float(10 * np.log10(found / expected))


def _similarities(
    heard: Levels,
    played: Levels,
    weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Correlation of levels `[n, 12]` with every stretch of `played` `[n + m, 12]`: `[m + 1]`.

    Each band is compared with its own mean, as its loudness says more of the loudspeaker than of
    the voice.
    """
    share = (weights / weights.sum())[:, None]
    heard_change = heard - (share * heard).sum(axis=0)
    heard_variance = (share * heard_change**2).sum()
    stretches = np.lib.stride_tricks.sliding_window_view(played, len(heard), axis=0)
    means = np.einsum("mbn,n->mb", stretches, share[:, 0])
    played_variances = np.einsum("mbn,mbn,n->m", stretches, stretches, share[:, 0])
    played_variances -= (means**2).sum(axis=1)
    covariances = np.einsum("mbn,nb->m", stretches, share * heard_change)
    scale = np.sqrt(heard_variance * np.maximum(played_variances, 0))
    similarities: npt.NDArray[np.float64] = np.zeros_like(scale)
    np.divide(covariances, scale, out=similarities, where=scale > STEADY_DB2)
    return similarities
