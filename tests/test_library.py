"""The engine as a library: what is imported from `backend`, and audio of any shape through it."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

import backend
import examples.ask_server
import examples.several_sessions
import examples.stream_file
import examples.stream_generator
from backend import (
    GREEDY,
    AudioInputError,
    Checkpoint,
    Decision,
    Engine,
    EngineConfig,
    Event,
    SessionClosedError,
    SessionFailedError,
    SessionLimitError,
    SessionSettings,
    TextDelta,
    TurnDone,
    TurnStarted,
    read_audio,
)
from backend.audio import TRAILING_SILENCE_CHUNKS, AudioBlock, float_to_pcm16
from backend.config import CHUNK_SAMPLES
from tests.conftest import SAMPLES
from tests.serving import serving

REPOSITORY = Path(__file__).parents[1]
CALM = SessionSettings(sampling=GREEDY)
SAMPLE = "digit_seven.ogg"


def stated(file: str) -> dict[str, Any]:
    """What `samples.json` says of a sample: the reply and its emotion."""
    samples = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(sample for sample in samples if sample["file"] == file)
    return found


@pytest.fixture(scope="module")
def engine(embedded_checkpoint: Checkpoint) -> Iterator[Engine]:
    with Engine(embedded_checkpoint, EngineConfig(num_slots=2)) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A sample that is answered, mono float32 at 16 kHz."""
    return read_audio(SAMPLES / SAMPLE)


def in_blocks(audio: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


def replies(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TurnDone)]


def timeless(events: list[Event]) -> list[tuple[str, object]]:
    """What the model said and when, without what it took."""
    return [
        ("heard", event.speak) if isinstance(event, Decision) else (type(event).__name__, event)
        for event in events
    ]


# Importing


def test_importing_the_package_is_cheap() -> None:
    script = (
        "import sys, backend\n"
        "from backend import SessionSettings, TurnDone\n"
        "heavy = {'av', 'numpy', 'tokenizers', 'torch', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_all_that_is_promised_is_there() -> None:
    assert set(backend.__all__) <= set(dir(backend))
    for name in backend.__all__:
        assert getattr(backend, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lead'"):
        _ = backend.lead
    assert (REPOSITORY / "backend" / "py.typed").is_file()


# Streaming


def test_a_stream_is_a_conversation(engine: Engine, speech: np.ndarray) -> None:
    events = list(engine.stream([speech], settings=CALM))
    decisions = [event for event in events if isinstance(event, Decision)]
    num_chunks = -(-len(speech) // CHUNK_SAMPLES) + TRAILING_SILENCE_CHUNKS
    assert [decision.chunk for decision in decisions] == list(range(num_chunks))
    (done,) = [event for event in events if isinstance(event, TurnDone)]
    (started,) = [event for event in events if isinstance(event, TurnStarted)]
    sample = stated(SAMPLE)
    assert (done.text, done.emotion) == (sample["reply"], sample["emotion"])
    assert (started.turn, started.chunk, started.emotion) == (0, done.chunk, done.emotion)
    assert "".join(e.delta for e in events if isinstance(e, TextDelta)) == done.text
    assert engine.num_sessions == 0


@pytest.mark.parametrize("size", [1, 377, CHUNK_SAMPLES, 10**6])
def test_blocks_may_have_any_length(engine: Engine, speech: np.ndarray, size: int) -> None:
    audio = speech[: 2 * CHUNK_SAMPLES + 5] if size == 1 else speech
    whole = list(engine.stream([audio], settings=CALM))
    assert timeless(list(engine.stream(in_blocks(audio, size), settings=CALM))) == timeless(whole)


def test_blocks_may_have_any_rate_channels_and_numbers(engine: Engine, speech: np.ndarray) -> None:
    fast = soxr.resample(speech, 16_000, 44_100)
    stereo = np.stack([fast, fast], axis=1)
    pcm = (stereo * 32767).astype(np.int16)
    for audio, rate_hz in ((fast.astype(np.float64), 44_100), (stereo, 44_100), (pcm, 44_100)):
        events = list(engine.stream(in_blocks(audio, 4410), rate_hz=rate_hz, settings=CALM))
        assert replies(events) == [stated(SAMPLE)["reply"]]


def test_a_block_is_taken_when_the_last_one_is_answered(engine: Engine, speech: np.ndarray) -> None:
    order: list[str] = []

    def blocks() -> Iterator[np.ndarray]:
        for block in in_blocks(speech, CHUNK_SAMPLES):
            order.append("block")
            yield block

    for event in engine.stream(blocks(), settings=CALM):
        order.append(type(event).__name__)
    before, _, after = "".join(f"{name} " for name in order).partition("TurnStarted ")
    assert before.endswith("Decision ")
    assert "block" not in after.partition("TurnDone ")[0]
    assert order.count("block") == -(-len(speech) // CHUNK_SAMPLES)
    assert order.count("TurnDone") == 1


def test_nothing_heard_is_nothing_said(engine: Engine) -> None:
    assert list(engine.stream([])) == []
    assert list(engine.stream([np.empty(0, np.float32)])) == []


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("speech.wav", r"not str: read a file with stream_audio\(path\)"),
        (b"\0\0", r"numpy\.frombuffer\(data, numpy\.int16\)"),
        (np.zeros(6400, np.float32), "not ndarray: put one array in a list"),
        ([b"\0\0"], r"holds floats in \[-1, 1\] or int16, not bytes"),
        ([np.zeros(6400, np.int32)], "or int16, not int32"),
        ([np.zeros((2, 6400))], r"\[samples, channels\], not \[2, 6400\]"),
        ([np.zeros((1, 2, 3))], r"not \[1, 2, 3\]"),
        ([np.float64(0.5)], r"\[samples\] or"),
        ([np.full(10, 12_000.0)], "this holds 12000: 16-bit samples have to be int16"),
        ([np.full(6400, np.nan)], "not finite"),
    ],
)
def test_what_is_no_audio_is_refused_in_words(engine: Engine, audio: Any, message: str) -> None:
    with pytest.raises(AudioInputError, match=message):
        list(engine.stream(audio))
    with pytest.raises(AudioInputError, match=message):
        asyncio.run(collect(engine, audio))
    assert engine.num_sessions == 0


async def collect(engine: Engine, audio: Any) -> list[Event]:
    return [event async for event in engine.stream_async(audio, settings=CALM)]


def test_a_rate_that_no_recording_has_is_refused(engine: Engine) -> None:
    with pytest.raises(AudioInputError, match="between 1000 and 768000 Hz, not 16"):
        next(engine.stream([], rate_hz=16))


def test_an_error_of_the_source_ends_the_conversation(engine: Engine) -> None:
    def failing() -> Iterator[AudioBlock]:
        yield np.zeros(CHUNK_SAMPLES, np.float32)
        raise OSError("the sound card is gone")

    events = engine.stream(failing())
    assert isinstance(next(events), Decision)
    with pytest.raises(OSError, match="sound card"):
        next(events)
    assert engine.num_sessions == 0


def test_a_stream_that_is_left_frees_its_place(engine: Engine, speech: np.ndarray) -> None:
    streams = [engine.stream([speech]) for _ in range(3)]
    for events in streams[:2]:
        next(events)
    with pytest.raises(SessionLimitError, match="all 2 places are taken"):
        next(streams[2])
    for events in streams:
        events.close()
    assert replies(list(engine.stream([speech], settings=CALM))) == [stated(SAMPLE)["reply"]]


def test_an_engine_that_does_not_run_says_so(golden_checkpoint: Checkpoint) -> None:
    engine = Engine(golden_checkpoint, EngineConfig(num_slots=1))
    silence = [np.zeros(CHUNK_SAMPLES, np.float32)] * 3
    with pytest.raises(SessionClosedError, match="with Engine"):
        next(engine.stream(silence))
    with pytest.raises(SessionClosedError, match="with Engine"):
        asyncio.run(collect(engine, silence))
    with engine:
        events = engine.stream(silence, settings=SessionSettings(decision_bias=-8))
        next(events)
    with pytest.raises((SessionFailedError, SessionClosedError), match="was stopped"):
        list(events)
    with pytest.raises(SessionClosedError, match="was stopped"):
        next(engine.stream(silence))


def test_streams_side_by_side_in_an_event_loop(engine: Engine, speech: np.ndarray) -> None:
    async def arriving() -> AsyncIterator[np.ndarray]:
        for block in in_blocks(speech, 1000):
            await asyncio.sleep(0)
            yield block

    async def scenario() -> None:
        both = await asyncio.gather(collect(engine, arriving()), collect(engine, [speech]))
        alone = list(engine.stream([speech], settings=CALM))
        assert timeless(both[0]) == timeless(both[1]) == timeless(alone)
        async with aclosing(engine.stream_async([speech])) as events:
            assert isinstance(await anext(events), Decision)
            assert engine.num_sessions == 1
        assert engine.num_sessions == 0

    asyncio.run(scenario())


# Examples


def test_example_stream_file(capsys: pytest.CaptureFixture[str]) -> None:
    examples.stream_file.main(str(SAMPLES / SAMPLE))
    sample = stated(SAMPLE)
    printed = capsys.readouterr().out
    assert printed.startswith("chunk ")
    assert printed.endswith(f": {sample['reply']} ({sample['emotion']})\n")
    assert printed.count("\n") == 1


def test_example_stream_generator(
    speech: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = io.BytesIO(float_to_pcm16(speech))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(pipe)))
    # It draws as the checkpoint's card says, from a fixed seed.
    examples.stream_generator.main()
    sample = stated(SAMPLE)
    printed = capsys.readouterr().out
    assert f"{sample['reply']} [{sample['emotion']}]." in printed
    assert printed.endswith("...\n")


def test_example_several_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(SAMPLES / SAMPLE), str(SAMPLES / "rain.ogg")]
    asyncio.run(examples.several_sessions.main(paths))
    assert capsys.readouterr().out.splitlines() == [
        f"{paths[0]}: {stated(SAMPLE)['reply']}",
        f"{paths[1]}: {stated('rain.ogg')['reply'] or '(silence)'}",
    ]


def test_example_ask_server(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(engine) as address:
        asyncio.run(examples.ask_server.ask(str(SAMPLES / SAMPLE), f"http://{address}"))
    sample = stated(SAMPLE)
    assert capsys.readouterr().out == f"{sample['reply']} ({sample['emotion']})\n"
