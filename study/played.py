"""What a client of a judged server does: plays what comes, stops when told to, and notes it all.

Times are seconds of the client's clock since it began.
"""

from dataclasses import dataclass, field

import numpy as np

from backend.audio import Samples, pcm16_to_float
from study.judged_wire import RATE_HZ

FRAME_SECONDS = 0.02
AUDIBLE = 0.004
"""RMS of a frame, of a full scale of 1."""
PAUSE_SECONDS = 0.4
"""Shorter silence within a reply's sound is part of it."""


@dataclass(slots=True)
class Audible:
    """Sound without a long pause in it."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A reply that was playing and fell silent because the server noticed a voice."""

    at: float
    item: str
    played_seconds: float


@dataclass(slots=True)
class _Playing:
    """What is known of an item's sound."""

    start: float
    seconds: float


@dataclass(slots=True)
class RealTimePlayer:
    """Plays pieces of sound one after the other, in real time, and can be stopped."""

    audible: list[Audible] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    _pieces: list[tuple[float, Samples]] = field(default_factory=list)
    """What was or is to be heard, and when it begins."""
    _free_at: float = 0.0
    """When all that came has been played."""
    _items: dict[str, _Playing] = field(default_factory=dict)
    _stopped: set[str] = field(default_factory=set)

    def play(self, at: float, item: str, pcm: bytes) -> None:
        """A piece has arrived."""
        if item in self._stopped:
            return
        start = max(at, self._free_at)
        samples = pcm16_to_float(pcm[: len(pcm) // 2 * 2])
        self._free_at = start + len(samples) / RATE_HZ
        self._pieces.append((start, samples))
        playing = self._items.setdefault(item, _Playing(start, 0.0))
        playing.seconds += len(samples) / RATE_HZ
        size = round(FRAME_SECONDS * RATE_HZ)
        frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
        loud = np.flatnonzero(np.sqrt(np.mean(frames**2, axis=1)) > AUDIBLE)
        for number in loud.tolist():
            self._add(start + number * FRAME_SECONDS)

    def stop(self, at: float) -> Cut | None:
        """Fall silent; what of is still to be played is dropped. None where nothing plays."""
        if at >= self._free_at:
            return None
        item = next((i for i, p in reversed(self._items.items()) if i not in self._stopped), "")
        playing = self._items[item]
        # An item whose last sound comes after another's begins where that one ended.
        played = min(playing.seconds, max(0.0, at - playing.start))
        self._free_at = at
        self._pieces = [
            (start, samples[: max(0, round((at - start) * RATE_HZ))])
            for start, samples in self._pieces
        ]
        self._stopped.add(item)
        for sound in self.audible:
            sound.end = min(sound.end, max(at, sound.start))
        self.audible = [sound for sound in self.audible if sound.end > sound.start]
        self.cuts.append(Cut(at, item, played))
        return self.cuts[-1]

    def track(self, since: float, until: float) -> Samples:
        """All that was heard between two times, float32 `[n]` at 24 kHz."""
        track = np.zeros(round((until - since) * RATE_HZ), np.float32)
        for start, samples in self._pieces:
            first = round((start - since) * RATE_HZ)
            inside = samples[max(0, -first) : max(0, len(track) - first)]
            track[max(0, first) :][: len(inside)] = inside
        return track

    def span_of(self, item: str) -> tuple[float, float, float] | None:
        """When a reply began, when it would have ended, and until when it was heard."""
        if (playing := self._items.get(item)) is None:
            return None
        whole_end = playing.start + playing.seconds
        cuts = [cut.at for cut in self.cuts if cut.item == item]
        return playing.start, whole_end, min([whole_end, *cuts])

    def is_audible(self, since: float, until: float) -> bool:
        """Whether anything sounds between two times."""
        return any(sound.start < until and sound.end > since for sound in self.audible)

    def first_after(self, at: float) -> float | None:
        """When a sound begins after a time; None: not yet."""
        return next((sound.start for sound in self.audible if sound.start >= at), None)

    def silent_from(self, at: float) -> float:
        """When what sounds at a time is over."""
        return next((s.end for s in self.audible if s.start <= at < s.end), at)

    def _add(self, start: float) -> None:
        end = start + FRAME_SECONDS
        if self.audible and start - self.audible[-1].end < PAUSE_SECONDS:
            self.audible[-1].end = end
        else:
            self.audible.append(Audible(start, end))
