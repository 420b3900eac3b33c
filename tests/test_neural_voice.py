"""The neural voice: its process, and what happens where that is slow, ends or is not there."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backend.errors import VoiceUnavailableError
from backend.speech import Speaker, SpokenPiece, Voices, neural
from backend.speech.neural import JoeVoice
from backend.speech.voice import Prosody
from tests.scripted_joe import PCM
from tests.scripted_voices import Cast


@asynccontextmanager
async def joe(manner: str = "") -> AsyncIterator[JoeVoice]:
    """The voice once it knows whether it can speak."""
    voice = JoeVoice((sys.executable, "-m", "tests.scripted_joe", manner))
    assert voice.failure is not None
    try:
        await asyncio.wrap_future(voice.get_ready())
        yield voice
    finally:
        await asyncio.to_thread(voice.close)


async def idle(voice: JoeVoice) -> None:
    """Wait until it has done what it was to do."""
    await asyncio.get_running_loop().run_in_executor(voice._thread, lambda: None)


async def said(voice: JoeVoice, text: str) -> bytes:
    return b"".join([block async for block in voice.synthesize(text, Prosody())])


async def test_a_sentence_is_said_by_a_process_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural, "SLOWEST", 1e9)
    async with joe() as voice:
        assert voice.failure is None
        assert await said(voice, "Hello.") == PCM
        with pytest.raises(VoiceUnavailableError, match="cannot say this: ValueError"):
            await said(voice, "Unspeakable.")
        assert voice.failure is None
    # What was said before needs no process.
    assert await said(voice, "Hello.") == PCM
    assert voice.failure == "Joe, American cannot speak: it is closed"


async def test_one_that_is_too_slow_rests_and_is_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neural, "SLOWEST", 0.0)
    async with joe() as voice:
        assert "a second of its sound takes" in (voice.failure or "")
        with pytest.raises(VoiceUnavailableError):
            await said(voice, "Hello.")
        monkeypatch.setattr(neural, "SLOWEST", 1e9)
        voice._measure_again()
        await idle(voice)
        assert await said(voice, "Hello.") == PCM


async def test_a_sentence_that_takes_longer_than_it_lasts_is_the_last_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neural, "SLOWEST", 1e9)
    async with joe("slow") as voice:
        assert await said(voice, "Hello.") == PCM
        assert "a second of its sound takes" in (voice.failure or "")


@pytest.mark.parametrize(("manner", "num_starts"), [("mute", 1), ("ends", 2)])
async def test_a_process_that_ends(
    manner: str, num_starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neural, "SLOWEST", 1e9)
    async with joe(manner) as voice:
        with pytest.raises(VoiceUnavailableError):
            await said(voice, "Hello.")
        await idle(voice)
        assert voice._num_starts == num_starts


async def test_it_stands_in_for_an_online_voice_and_another_for_it() -> None:
    cast = Cast(has_neural=True)

    async def speakers(voice_id: str, text: str) -> list[str]:
        speaker = Speaker(cast.voices, voice_id)
        speaker.say(text)
        speaker.finish()
        pieces = [piece async for piece in speaker if isinstance(piece, SpokenPiece)]
        return list(dict.fromkeys(piece.voice_id for piece in pieces))

    assert await speakers("piper:en", "Hello.") == ["piper:en"]
    assert await speakers("piper:en", "你好。") == ["espeak:zh"]
    assert await speakers("auto", "Hello.") == ["edge:en"]
    cast.online.fails_after_blocks = 0
    assert await speakers("auto", "Hello.") == ["piper:en"]
    cast.neural.failure = "it is too slow"
    assert await speakers("piper:en", "Hello.") == ["espeak:en"]
    assert await speakers("auto", "Hello again.") == ["espeak:en"]
    cast.neural.failure = None
    cast.neural.fails_after_blocks = 2
    assert (await speakers("piper:en", "Hello."))[-1] == "espeak:en"
    # The model was taught with the offline voices' reading of typed text.
    before = list(cast.neural.said)
    await cast.voices.read_aloud("Hello.")
    assert cast.neural.said == before


def test_without_the_internet_it_is_the_first_choice() -> None:
    cast = Cast(has_neural=True)
    voices = Voices([cast.offline], [], neural=[cast.neural])
    assert voices.voice_for("auto", "Hello.") is cast.neural
    assert [voice.id for voice in voices.catalogue()] == ["piper:en", "espeak:en"]
