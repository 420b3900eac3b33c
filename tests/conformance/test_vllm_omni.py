"""vLLM-Omni's `DuplexClient`, over the full-duplex dialect."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import websockets

from tests.conformance.wire import (
    FIRST_REPLY,
    LONG_REPLY,
    SECOND_REPLY,
    TYPED,
    VOICE,
    WAIT_SECONDS,
    Modality,
    Wire,
    seconds_of,
    spoken,
)
from tests.scripted import ScriptedReply

# The package itself loads the whole inference server; its client needs none of that.
_spec = importlib.util.find_spec("vllm_omni")
assert _spec is not None
sys.modules.setdefault("vllm_omni", importlib.util.module_from_spec(_spec))

from vllm_omni.clients.duplex import (  # noqa: E402
    DuplexClient,
    DuplexProtocolError,
    ReconnectPolicy,
    ResponseHandle,
    SessionConfig,
)

INPUT_RATE_HZ = 16_000


class Sockets:
    """Opens the client's sockets as it would itself, and can tear the newest."""

    def __init__(self) -> None:
        self.num_opened = 0

    async def connect(self, url: str) -> websockets.ClientConnection:
        self._newest = await websockets.connect(url)
        self.num_opened += 1
        return self._newest

    def tear(self) -> None:
        self._newest.transport.abort()


@asynccontextmanager
async def connected(
    wire: Wire, *modalities: Modality, sockets: Sockets | None = None
) -> AsyncIterator[DuplexClient]:
    client = DuplexClient(
        f"ws://{wire.address}",
        model="audio-interaction",
        config=SessionConfig(modalities=modalities, voice=VOICE, instructions="Take orders."),
        reconnect=ReconnectPolicy(backoff_s=(0.05, 0.1)),
        connect=sockets.connect if sockets else None,
    )
    async with client:
        yield client


async def next_reply(client: DuplexClient) -> ResponseHandle:
    """The next response in which the model speaks."""
    async with asyncio.timeout(WAIT_SECONDS):
        async for response in client.responses():
            if response.decision == "speak":
                return response
    raise AssertionError("the session ended without a reply")


async def complete_reply(client: DuplexClient) -> ResponseHandle:
    reply = await next_reply(client)
    await reply.wait(WAIT_SECONDS)
    return reply


async def write(client: DuplexClient) -> None:
    part = {"type": "input_text", "text": TYPED}
    item = {"type": "message", "role": "user", "content": [part]}
    await client.send({"type": "conversation.item.create", "item": item})
    await client.send({"type": "response.create"})


async def test_decisions_and_two_turns_in_text(wire: Wire) -> None:
    async with connected(wire, "text") as client:
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        first = await complete_reply(client)
        await write(client)
        second = await complete_reply(client)
    assert client.session_info["instructions"] == "Take orders."
    assert (first.text, second.text) == (FIRST_REPLY.text, SECOND_REPLY.text)
    chunks = [event["response"]["metadata"]["chunk"] for event in wire.told("response.listen")]
    assert chunks[:3] == [0, 1, 2]
    assert wire.told("error") == []
    assert wire.told("session.closed")


async def test_spoken_reply_is_played_and_acknowledged(wire: Wire) -> None:
    async with connected(wire, "audio", "text") as client:
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        reply = await next_reply(client)
        pcm = b"".join([chunk async for chunk in reply.audio()])
        acknowledged = asyncio.create_task(
            client.wait_for("playback.acknowledged", timeout_s=WAIT_SECONDS)
        )
        await client.ack_playback(reply.played_ms, response_id=reply.response_id)
        playback = (await acknowledged).raw["event"]
    assert reply.transcript == FIRST_REPLY.text
    assert seconds_of(pcm) > 0.5
    assert reply.played_ms == pytest.approx(seconds_of(pcm) * 1000)
    assert isinstance(playback, dict)
    assert playback["playback"]["played_ms"] == int(reply.played_ms)
    assert wire.told("error") == []


async def test_cancelled_reply_ends_at_once(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    async with connected(wire, "audio", "text") as client:
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        reply = await next_reply(client)
        await client.cancel_response(reply.response_id)
        await reply.wait(WAIT_SECONDS)
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        after = await complete_reply(client)
    assert after.transcript == SECOND_REPLY.text
    statuses = [event["response"]["status"] for event in wire.told("response.done")]
    assert statuses == ["cancelled", "completed"]
    assert wire.told("error") == []


async def test_torn_socket_resumes_the_conversation(wire: Wire) -> None:
    sockets = Sockets()
    going_on = ScriptedReply("This goes on while its connection is torn. " * 10)
    wire.follow(going_on, seconds_per_word=0.02)
    async with connected(wire, "text", sockets=sockets) as client:
        session_id = client.session_id
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        reply = await next_reply(client)
        sockets.tear()
        await reply.wait(WAIT_SECONDS)
        async with asyncio.timeout(WAIT_SECONDS):
            # On a slow machine the reply is complete before the client has come back.
            while sockets.num_opened < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert client.session_id == session_id
    assert reply.text == going_on.text
    assert sockets.num_opened == 2
    assert len(wire.told("session.created")) == 1
    assert wire.told("error") == []


async def test_mistake_is_told_and_the_conversation_goes_on(wire: Wire) -> None:
    async with connected(wire, "text") as client:
        await client.commit()
        with pytest.raises(DuplexProtocolError) as told:
            await next_reply(client)
        await client.stream_pcm(spoken(INPUT_RATE_HZ), realtime=False)
        assert (await complete_reply(client)).text == FIRST_REPLY.text
    assert told.value.code == "input_audio_buffer_commit_empty"
