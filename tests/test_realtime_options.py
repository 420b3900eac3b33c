"""What clients of the Realtime wire ask for beyond talking: each thing that they stumble over."""

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, UnprocessableEntityError
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.sync.client import connect

from backend.audio import float_to_pcm16
from backend.config import CHUNK_SAMPLES, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.events import TurnDone, TurnStatus
from backend.model.checkpoint import Checkpoint
from backend.protocol import Emotion
from backend.serving.keys import MAX_SECRETS, ClientSecrets
from backend.serving.process import ServingOptions
from backend.wires.audio_formats import Encoding, WireFormat
from backend.wires.errors import CloseCode, WireError
from backend.wires.realtime.wire import REALTIME
from backend.wires.wire import Address, Offer
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.scripted_voices import Cast
from tests.serving import serving
from tests.sockets import House, Visitor, house, offer_of

SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
REPLY = ScriptedReply("Coming up: large latte.", Emotion.HAPPY)
PROMPT = ScriptedReply("{prompt}")
SPOKEN = {"output_modalities": ["audio"], "audio": {"output": {"voice": "espeak:en"}}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def come(home: House, offer: Offer | None = None, **query: str) -> Visitor:
    offer = offer or offer_of(home.engine, Cast().voices)
    return home.admit(REALTIME.request(Address(query, {}), offer))


def utterance(rate_hz: int) -> bytes:
    """0.8 s of tone and 0.8 s of silence: the script answers the third chunk."""
    seconds = np.arange(round(0.8 * rate_hz)) / rate_hz
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    return float_to_pcm16(np.concatenate([tone, np.zeros_like(tone)]).astype(np.float32))


def append(visitor: Visitor, audio: bytes) -> None:
    visitor.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def require_shapes(visitor: Visitor) -> None:
    for event in visitor.received:
        SERVER_EVENT.validate_python(event)


def text_of(done: dict[str, Any]) -> str:
    text: str = done["response"]["output"][0]["content"][0]["text"]
    return text


# Speaking first


async def test_model_that_answers_a_greeting_is_greeted_to_speak_first() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home, replace(offer_of(home.engine), opening="hello"))
        visitor.send("response.create", response={"metadata": {"topic": "greeting"}})
        done = await visitor.until("response.done")
        (session,) = home.engine.sessions
        assert max(np.abs(chunk).max() for chunk in session.chunks) > 0.1
        num_chunks = len(session.chunks)
        # Only the first time: after that there is something to reply to.
        visitor.send("response.create")
        await visitor.until("response.done")
        assert len(session.chunks) == num_chunks + 1
    require_shapes(visitor)
    assert text_of(done) == REPLY.text
    assert done["response"]["metadata"]["topic"] == "greeting"
    assert "conversation.item.created" not in visitor.types


async def test_model_that_keeps_silent_on_what_it_does_not_know_is_not_made_to_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.scripted.LOUD", 10.0)  # whatever it hears, it keeps silent
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home, replace(offer_of(home.engine), may_keep_silent=True))
        content = [{"type": "input_text", "text": "What is 2+2?"}]
        item = {"type": "message", "role": "user", "content": content}
        visitor.send("conversation.item.create", item=item)
        visitor.send("response.create", response={"metadata": {"topic": "sums"}})
        created = (await visitor.until("response.created"))["response"]
        withheld = (await visitor.until("response.done"))["response"]
        # Where it was spoken to, a reply that is asked for is one.
        visitor.send("response.create")
        done = await visitor.until("response.done")
    require_shapes(visitor)
    assert created["id"] == withheld["id"]
    assert (withheld["status"], withheld["output"]) == ("completed", [])
    assert withheld["metadata"] == {"topic": "sums", "kept_silent": "true"}
    assert text_of(done) == REPLY.text


def test_embedded_model_greets_first(embedded_checkpoint: Checkpoint) -> None:
    with (
        Engine(embedded_checkpoint, EngineConfig(num_slots=1)) as engine,
        serving(engine) as address,
        connect(f"ws://{address}/v1/realtime") as socket,
    ):
        socket.send(json.dumps({"type": "response.create"}))
        while (event := json.loads(socket.recv(timeout=60)))["type"] != "response.done":
            pass
    assert text_of(event) == "Hello! Nice to hear you."
    assert event["response"]["status"] == "completed"


async def test_model_without_words_is_not_waited_for(embedded_checkpoint: Checkpoint) -> None:
    with Engine(embedded_checkpoint, EngineConfig(num_slots=1)) as engine:
        session = await engine.open_session(SessionSettings())
        session.request_reply()
        await session.feed(np.zeros(CHUNK_SAMPLES, np.float32))
        async for event in session.events():
            if isinstance(event, TurnDone):
                break
        await session.close()
    assert isinstance(event, TurnDone)
    assert (event.text, event.status) == ("", TurnStatus.INCOMPLETE)
    assert event.num_tokens < 20


# What is told and obeyed


async def test_usage_is_told_in_positions_and_tokens() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home)
        append(visitor, utterance(24_000))
        created = await visitor.until("response.created")
        done = await visitor.until("response.done")
    assert created["response"]["usage"] is None
    usage = done["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (26, 5)
    assert usage["total_tokens"] == 31


async def test_message_of_the_system_becomes_instructions_and_is_not_heard() -> None:
    async with house(ScriptedEngine([PROMPT])) as home:
        visitor = come(home)
        for text in ("Be brief.", "Be kind."):
            content = [{"type": "input_text", "text": text}]
            item = {"type": "message", "role": "system", "content": content}
            visitor.send("conversation.item.create", item=item)
            await visitor.until("conversation.item.added")
        (session,) = home.engine.sessions
        assert not session.chunks
        visitor.send("response.create")
        done = await visitor.until("response.done")
    require_shapes(visitor)
    assert text_of(done) == "Answer by the script.\n\nBe brief.\n\nBe kind."
    updated = [e for e in visitor.received if e["type"] == "session.updated"]
    assert updated[-1]["session"]["instructions"].endswith("Be kind.")


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (("audio/pcmu", "audio/pcmu"), Encoding.MU_LAW),
        (("g711_alaw", "audio/pcma"), Encoding.A_LAW),
    ],
)
async def test_telephones_are_heard_and_spoken_to(
    names: tuple[str, str], encoding: Encoding
) -> None:
    telephone = WireFormat(encoding, 8_000)
    said, heard = ({"format": {"type": name}} for name in names)
    output = {**said, "voice": "espeak:en"}
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home)
        audio = {"input": heard, "output": output}
        visitor.send("session.update", session={"output_modalities": ["audio"], "audio": audio})
        shown = (await visitor.until("session.updated"))["session"]["audio"]
        append(visitor, telephone.encode(utterance(8_000)))
        await visitor.until("response.done")
        (session,) = home.engine.sessions
        level = float(np.abs(session.chunks[0]).max())
        visitor.send("session.update", session={"audio": {"input": {"format": "audio/pcm"}}})
        back = (await visitor.until("session.updated"))["session"]["audio"]["input"]["format"]
    expected = {"type": encoding.value, "rate": 8_000}
    assert (shown["input"]["format"], shown["output"]["format"]) == (expected, expected)
    assert back == {"type": "audio/pcm", "rate": 24_000}
    assert level == pytest.approx(0.3, abs=0.02)
    deltas = [e["delta"] for e in visitor.received if e["type"] == "response.output_audio.delta"]
    # 0.5 s for the only sentence, in samples of one byte.
    assert sum(len(base64.b64decode(delta)) for delta in deltas) == 4_000


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        (
            {"audio": {"input": {"format": {"type": "audio/pcmu", "rate": 16_000}}}},
            "unsupported_audio_format",
            "session.audio.input.format.rate",
        ),
        (
            {"audio": {"output": {"format": {"type": "audio/pcma", "rate": 24_000}}}},
            "unsupported_audio_format",
            "session.audio.output.format.rate",
        ),
        (
            {"audio": {"output": {"format": {"type": "audio/opus"}}}},
            "unsupported_audio_format",
            "session.audio.output.format.type",
        ),
        ({"type": "transcription"}, "transcription_unsupported", "session.type"),
    ],
)
async def test_what_is_not_supported_is_named(
    session: dict[str, Any], code: str, param: str
) -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home)
        visitor.send("session.update", session=session)
        error = (await visitor.until("error"))["error"]
        assert (error["code"], error["param"]) == (code, param)
        tools = [{"type": "function", "name": "pour"}]
        visitor.send("session.update", session={"type": "realtime", "tools": tools})
        shown = (await visitor.until("session.updated"))["session"]
    assert shown["tools"] == []
    assert shown["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24_000}


async def test_an_address_may_ask_for_a_transcription_session() -> None:
    async with house(ScriptedEngine([REPLY], words=(" yes",))) as home:
        created = await come(home, intent="transcription").until("session.created")
    assert created["session"]["type"] == "transcription"
    with pytest.raises(WireError, match="writes down nothing"):
        REALTIME.request(
            Address({"intent": "transcription"}, {}), offer_of(ScriptedEngine([REPLY]))
        )


async def test_binary_messages_are_audio_where_the_address_says_so() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home, binary="1", input_rate="16000")
        visitor.send_text(utterance(16_000))
        assert text_of(await visitor.until("response.done")) == REPLY.text
        visitor.send_text(b"\0")
        assert await visitor.error_code() == "odd_byte_count"
        stranger = come(home)
        stranger.send_text(b"\0\0")
        assert await stranger.error_code() == "binary_message"


async def test_long_quiet_after_a_reply_is_ended_where_that_is_wanted() -> None:
    quiet = bytes(2 * 24_000)
    detection = {"type": "server_vad", "idle_timeout_ms": 5_000}
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = come(home)
        visitor.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
        shown = (await visitor.until("session.updated"))["session"]["audio"]["input"]
        for _ in range(8):
            append(visitor, quiet)
        append(visitor, utterance(24_000))
        await visitor.until("response.done")
        for _ in range(7):
            append(visitor, quiet)
        timeout = await visitor.until("input_audio_buffer.timeout_triggered")
        assert text_of(await visitor.until("response.done")) == REPLY.text
    require_shapes(visitor)
    assert shown["turn_detection"]["idle_timeout_ms"] == 5_000
    assert visitor.types.count("input_audio_buffer.timeout_triggered") == 1
    assert timeout["audio_end_ms"] - timeout["audio_start_ms"] >= 5_000
    committed = [e for e in visitor.received if e["type"] == "input_audio_buffer.committed"]
    assert committed[-1]["item_id"] == timeout["item_id"]


# Over HTTP


async def test_models_keys_for_browsers_and_what_there_is_not() -> None:
    key, elsewhere = "sesame", "https://shop.example"
    engine = ScriptedEngine([REPLY])
    with serving(engine, options=ServingOptions(access_key=key)) as address:
        client = AsyncOpenAI(api_key=key, base_url=f"http://{address}/v1", max_retries=0)
        async with client:
            (model,) = (await client.models.list()).data
            assert (await client.models.retrieve(model.id)).id == model.id == "scripted"
            with pytest.raises(NotFoundError):
                await client.models.retrieve("gpt-realtime")
            secret = await client.realtime.client_secrets.create(
                expires_after={"anchor": "created_at", "seconds": 60},
                session={"type": "realtime", "instructions": "Take orders."},
            )
            wrong: Any = {"type": "realtime", "audio": 5}
            with pytest.raises(UnprocessableEntityError):
                await client.realtime.client_secrets.create(session=wrong)
            with pytest.raises(BadRequestError) as refused:
                await client.live.create(
                    session={"model": "any"}, transport={"type": "webrtc", "sdp": "v=0"}
                )
            assert refused.value.code == "webrtc_unsupported"
            with pytest.raises(NotFoundError):
                await client.live.sessions.hangup("sess_none")
            created = await asyncio.to_thread(first_message, address, secret.value, elsewhere)
            assert created["session"]["instructions"] == "Take orders."
            stranger = await asyncio.to_thread(first_message, address, "ek_made_up", None)
            assert stranger["error"]["code"] == "invalid_api_key"


def first_message(address: str, key: str, origin: str | None) -> dict[str, Any]:
    """What a browser's client is told first."""
    offered: Any = ["realtime", f"openai-insecure-api-key.{key}"]
    headers = {"Origin": origin} if origin else {}
    url = f"ws://{address}/v1/realtime"
    with connect(url, subprotocols=offered, additional_headers=headers) as socket:
        message: dict[str, Any] = json.loads(socket.recv(timeout=60))
        return message


def test_short_lived_keys_end_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("backend.serving.keys.time.time", lambda: now)
    secrets = ClientSecrets()
    first = secrets.create(600, {"instructions": "Be brief."})
    assert secrets.find(first.value) is first
    for _ in range(MAX_SECRETS):
        newest = secrets.create(600, {})
    assert secrets.find(first.value) is None
    now += 601
    assert secrets.find(newest.value) is None


async def test_live_session_is_hung_up_from_elsewhere() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit()
        session_id = (await visitor.until("session.created"))["session"]["id"]
        assert home.conversations.hang_up(session_id)
        assert await visitor.closed() == (CloseCode.NORMAL, "client_request")
        assert not home.conversations.hang_up(session_id)
