"""What survives when a context rolls."""

import pytest
import torch

from backend.engine.context import (
    CHUNK_INPUT_POSITIONS,
    LEAD_CHUNKS,
    RECENT_CHUNKS,
    HeardChunk,
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
