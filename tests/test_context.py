"""What survives when a context rolls, and how a context is computed anew."""

from random import Random

import pytest
import torch

from backend.config import FEATURES_PER_CHUNK, LISTENING_POSITIONS
from backend.engine.context import (
    CHUNK_INPUT_POSITIONS,
    LEAD_CHUNKS,
    RECENT_CHUNKS,
    HeardChunk,
    Refill,
    chunks_to_keep,
)

SILENT_POSITIONS = CHUNK_INPUT_POSITIONS + 1


def heard(answered: set[int], count: int) -> list[HeardChunk]:
    features = torch.zeros(10, 1)
    return [HeardChunk(features, [1, 2, 3] if i in answered else [0]) for i in range(count)]


def test_everything_stays_while_there_is_room() -> None:
    chunks = heard(set(), 5)
    assert chunks_to_keep(chunks, 5 * SILENT_POSITIONS) == [0, 1, 2, 3, 4]


def test_the_recent_audio_stays_and_long_silence_goes_first() -> None:
    answered = 30
    chunks = heard({answered}, 200)
    turn = [*range(answered - LEAD_CHUNKS, answered), answered]
    room = RECENT_CHUNKS + len(turn) + 1
    kept = chunks_to_keep(chunks, room * SILENT_POSITIONS)
    assert kept == [*turn, *range(200 - RECENT_CHUNKS, 200)]


def test_newer_turns_outlive_older_ones() -> None:
    chunks = heard({20, 120}, 200)
    kept = chunks_to_keep(chunks, (RECENT_CHUNKS + LEAD_CHUNKS + 1) * SILENT_POSITIONS + 2)
    assert 120 in kept
    assert 20 not in kept


@pytest.mark.parametrize("room", [0, 12, 13, 500, 1000])
def test_it_never_keeps_more_than_fits(room: int) -> None:
    chunks = heard({3, 40, 41, 99}, 100)
    kept = chunks_to_keep(chunks, room)
    assert sum(chunks[i].num_positions for i in kept) <= room
    assert kept == sorted(set(kept))


# A context that is computed anew

CHUNK_TOKENS = [90, *[91] * FEATURES_PER_CHUNK, 92]


def sequence_of(prefix: list[int], chunks: list[HeardChunk]) -> list[int]:
    """The whole context's tokens but for the newest, which is fed by the step after."""
    sequence = [*prefix]
    for chunk in chunks:
        sequence += [*CHUNK_TOKENS, *chunk.tokens]
    return sequence[:-1]


@pytest.mark.parametrize("num_prefix", [1, 7, 13, 30])
@pytest.mark.parametrize("seed", range(5))
def test_pieces_hold_the_whole_context_in_order(num_prefix: int, seed: int) -> None:
    random = Random(seed)
    prefix = list(range(num_prefix))
    chunks = [
        HeardChunk(torch.zeros(10, 1), [random.randrange(90) for _ in range(length)])
        for length in random.choices([1, 1, 3, 14, 40], k=6)
    ]
    refill = Refill(prefix, chunks[:3], CHUNK_TOKENS)
    tokens: list[int] = []
    features: list[torch.Tensor] = []
    coming = chunks[3:]
    while refill.num_positions_left or coming:
        while refill.has_piece:
            piece = refill.take_piece(slot=5)
            assert (piece.slot, piece.position) == (5, len(tokens))
            assert 1 <= len(piece.tokens) <= LISTENING_POSITIONS
            if piece.features is not None:
                places = slice(piece.first_feature, piece.first_feature + FEATURES_PER_CHUNK)
                assert piece.tokens[places] == CHUNK_TOKENS[1:-1]
                features.append(piece.features)
            tokens += piece.tokens
        if coming:
            # Its session goes on meanwhile, and says the tokens one after the other.
            chunk = coming.pop(0)
            said, chunk.tokens[1:] = chunk.tokens[1:], []
            refill.hear(chunk)
            for token in said:
                chunk.tokens.append(token)
                refill.say()
        else:
            refill.is_awaited = True
    assert tokens == sequence_of(prefix, chunks)
    assert all(a is b.features for a, b in zip(features, chunks, strict=True))
    assert refill.num_positions == len(tokens)


def test_a_prompt_alone_is_computed_but_for_its_last_token() -> None:
    refill = Refill([1, 2, 3], [], CHUNK_TOKENS, is_awaited=True)
    assert refill.take_piece(slot=0).tokens == [1, 2]
    assert not refill.has_piece
    refill = Refill([1], [], CHUNK_TOKENS, is_awaited=True)
    assert not refill.has_piece
