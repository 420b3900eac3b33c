"""What a session remembers, what of it stays when its context is full, and how that is computed.

Pure: no torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from backend.config import FEATURES_PER_CHUNK, LISTENING_POSITIONS

if TYPE_CHECKING:
    from torch import Tensor

RECENT_CHUNKS = 40
"""16 s of the latest audio outlive every roll."""
LEAD_CHUNKS = 15
"""A turn is kept with up to 6 s of the audio that led to it."""

CHUNK_INPUT_POSITIONS = 1 + FEATURES_PER_CHUNK + 1
"""AUDIO_BEGIN, the features, ASSISTANT."""


class RollRule(Enum):
    """When it is chosen what stays of a context that fills up."""

    AHEAD = "ahead"
    """A few seconds before it is full, so that most of it is computed by then."""
    WHEN_FULL = "when full"
    """When the next step has no room, as it was in the first session files."""


@dataclass(slots=True)
class HeardChunk:
    """A chunk in the context: its features and the tokens that followed it."""

    features: "Tensor"
    """`[10, width]`, on the model's device."""
    tokens: list[int] = field(default_factory=list)
    """The decision, and the reply's tokens if there is one."""
    number: int = 0
    """In its session."""

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


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions of a context that one step computes, at most as many as a chunk is heard with."""

    slot: int
    position: int
    """Where the first goes."""
    tokens: Sequence[int]
    """With PAD where features go."""
    features: "Tensor | None" = None
    """`[10, width]`, where a chunk's features are among them."""
    first_feature: int = 0
    """Where among the tokens the first of the features goes."""


@dataclass(slots=True)
class Refill:
    """A context that is computed anew, piece by piece, while others converse.

    Its session may converse on meanwhile, in another slot: what is heard and said is added here,
    and comes in its turn. When it is complete but for the newest token, which is always yet to be
    fed, it takes the place of the context before.
    """

    prefix: Sequence[int]
    chunks: list[HeardChunk]
    """Those that stay, and those that were heard since."""
    chunk_tokens: Sequence[int]
    """Of a chunk's input: AUDIO_BEGIN, PADs, ASSISTANT."""
    is_awaited: bool = False
    """Its session cannot go on before it is complete: its prompt is another, or it is full."""
    num_positions: int = 0
    """Those that are computed."""
    num_positions_left: int = field(init=False)
    """Those that are not; the newest token's is not among them."""
    _chunk: int = -1
    """What the next piece begins in; -1 for the prefix."""
    _offset: int = 0
    """Of the next piece in there."""

    def __post_init__(self) -> None:
        num_heard = sum(chunk.num_positions for chunk in self.chunks)
        self.num_positions_left = len(self.prefix) + num_heard - 1

    def hear(self, chunk: HeardChunk) -> None:
        """Its session has heard another chunk, and decided."""
        self.chunks.append(chunk)
        self.num_positions_left += chunk.num_positions

    def say(self) -> None:
        """Its session has said another token, which is in the newest chunk already."""
        self.num_positions_left += 1

    @property
    def has_piece(self) -> bool:
        """Whether there is enough for a piece; a short one waits for more, unless awaited."""
        return self.num_positions_left >= (1 if self.is_awaited else LISTENING_POSITIONS)

    def take_piece(self, slot: int) -> Piece:
        """The next piece, for `slot`; from now on it counts as computed.

        A chunk's features stay together, and with no other chunk's: so a piece has at most the
        shape of a chunk that is heard.
        """
        position = self.num_positions
        longest = min(self.num_positions_left, LISTENING_POSITIONS)
        tokens: list[int] = []
        features, first_feature = None, 0
        while (room := longest - len(tokens)) > 0:
            if self._begins_chunk():
                if features is not None or room < CHUNK_INPUT_POSITIONS:
                    break
                features, first_feature = self.chunks[self._chunk].features, len(tokens) + 1
                tokens += self.chunk_tokens
                self._offset = CHUNK_INPUT_POSITIONS
            else:
                tokens += self._take_said(room)
        self.num_positions += len(tokens)
        self.num_positions_left -= len(tokens)
        return Piece(slot, position, tokens, features, first_feature)

    def _begins_chunk(self) -> bool:
        """Whether a chunk's input comes next; goes on to the next chunk where one is through."""
        is_prefix = self._chunk < 0
        end = len(self.prefix) if is_prefix else self.chunks[self._chunk].num_positions
        if self._offset == end:
            self._chunk, self._offset = self._chunk + 1, 0
        return self._chunk >= 0 and self._offset == 0

    def _take_said(self, room: int) -> Sequence[int]:
        """The next tokens of the prefix, or of what followed a chunk."""
        if self._chunk < 0:
            said = self.prefix[self._offset : self._offset + room]
        else:
            begin = self._offset - CHUNK_INPUT_POSITIONS
            said = self.chunks[self._chunk].tokens[begin : begin + room]
        self._offset += len(said)
        return said
