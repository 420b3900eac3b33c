"""Spoken replies: what is said, where it is cut, how it sounds, and what happens when it fails."""

import pytest

from backend.speech import SPEECH_RATE_HZ, Speaker, SpokenPiece, Voices


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_reply_is_said_sentence_by_sentence() -> None:
    speaker = Speaker(Voices(), "espeak:en-us")
    for delta in ("Hello the", "re! It is 3", ".5 degrees. 😀"):
        speaker.say(delta)
    speaker.finish()

    pieces = [piece async for piece in speaker]

    assert all(isinstance(piece, SpokenPiece) for piece in pieces)
    spoken = [piece for piece in pieces if isinstance(piece, SpokenPiece)]
    firsts = [piece.sentence for piece in spoken if piece.is_first_of_sentence]
    assert firsts == ["Hello there! ", "It is 3.5 degrees. "]
    position = 0
    for piece in spoken:
        assert piece.start_ms == position * 1000 // (2 * SPEECH_RATE_HZ)
        position += len(piece.pcm)
    assert 1.5 < position / 2 / SPEECH_RATE_HZ < 4.0
