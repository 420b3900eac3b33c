"""What a session remembers, and what it lets go of when its context is full. Pure: no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.config import FEATURES_PER_CHUNK

if TYPE_CHECKING:
    from torch import Tensor

RECENT_CHUNKS = 40
"""16 s of the latest audio outlive every roll."""
LEAD_CHUNKS = 15
"""A turn is kept with up to 6 s of the audio that led to it."""

CHUNK_INPUT_POSITIONS = 1 + FEATURES_PER_CHUNK + 1
"""AUDIO_BEGIN, the features, ASSISTANT."""


@dataclass(slots=True)
class HeardChunk:
    """A chunk in the context: its features and the tokens that followed it."""

    features: "Tensor"
    """`[10, width]`, on the model's device."""
    tokens: list[int] = field(default_factory=list)
    """The decision, and the reply's tokens if there is one."""

    @property
    def num_positions(self) -> int:
        """Positions this chunk takes up."""
        return CHUNK_INPUT_POSITIONS + len(self.tokens)

    @property
    def is_answered(self) -> bool:
        """Whether a reply followed it."""
        return len(self.tokens) > 1


def chunks_to_keep(chunks: Sequence[HeardChunk], max_positions: int) -> list[int]:
    """Indices, in order, of the chunks that survive when the context rolls.

    The recent audio comes first, then turns from the newest back, each with the audio that led to
    it, then what is left of the silence, newest first: until `max_positions` are filled.
    """
    kept: set[int] = set()
    room = max_positions
    for index in _by_importance(chunks):
        if index in kept:
            continue
        room -= chunks[index].num_positions
        if room < 0:
            break
        kept.add(index)
    return sorted(kept)


def _by_importance(chunks: Sequence[HeardChunk]) -> Iterator[int]:
    newest_first = range(len(chunks) - 1, -1, -1)
    yield from newest_first[:RECENT_CHUNKS]
    for index in newest_first:
        if not chunks[index].is_answered:
            continue
        yield index
        for before in range(index - 1, max(index - LEAD_CHUNKS, 0) - 1, -1):
            if chunks[before].is_answered:
                break
            yield before
    yield from newest_first
