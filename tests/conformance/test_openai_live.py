"""The `openai` package's Live client: typed events, speech in its time, and those who look on."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI
from openai.resources.live.live import AsyncLiveConnection
from openai.types.live import ServerEvent, SessionClosedEvent, SessionStartedEvent
from openai.types.live.session_config_param import SessionConfigParam
from websockets.exceptions import ConnectionClosed

from tests.conformance.wire import (
    FIRST_REPLY,
    LONG_REPLY,
    SECOND_REPLY,
    VOICE,
    WAIT_SECONDS,
    Wire,
    spoken,
)
from tests.scripted import ScriptedReply


def client(wire: Wire) -> AsyncOpenAI:
    return AsyncOpenAI(api_key="none", base_url=f"http://{wire.address}/v1")


@asynccontextmanager
async def started(wire: Wire) -> AsyncIterator[AsyncLiveConnection]:
    session: SessionConfigParam = {
        "model": "gpt-live-1",
        "instructions": "Take orders.",
        "audio": {"output": {"voice": VOICE}},
    }
    async with client(wire).live.connect() as connection:
        await connection.session.start(session=session, event_id="start")
        event = await connection.recv()
        assert isinstance(event, SessionStartedEvent)
        assert event.client_event_id == "start"
        yield connection


async def say(connection: AsyncLiveConnection) -> None:
    encoded = base64.b64encode(spoken()).decode()
    await connection.session.input_audio.append(audio=encoded)


async def until(connection: AsyncLiveConnection, event_type: str, text: str = "") -> list[Any]:
    """Everything up to an event of a type, and until what was said ends with a text."""
    events: list[ServerEvent] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not events or events[-1].type != event_type or not said(events).endswith(text):
            events.append(await connection.recv())
    return events


async def heard(connection: AsyncLiveConnection, text: str) -> list[Any]:
    return await until(connection, "session.output_transcript.delta", text)


def said(events: list[Any]) -> str:
    return "".join(e.delta for e in events if e.type == "session.output_transcript.delta")


def audio_of(events: list[Any]) -> bytes:
    return b"".join(
        base64.b64decode(e.delta) for e in events if e.type == "session.output_audio.delta"
    )


def is_loud(pcm: bytes) -> bool:
    return bool(np.abs(np.frombuffer(pcm, "<i2")).max() > 1000)


async def test_a_turn_with_one_that_looks_on_and_a_farewell(wire: Wire) -> None:
    async with started(wire) as connection:
        session_id = wire.told("session.started")[0]["session"]["id"]
        async with client(wire).live.sideband.connect(session_id=session_id) as sideband:
            assert isinstance(await sideband.recv(), SessionStartedEvent)
            await say(connection)
            first = await heard(connection, FIRST_REPLY.text)
            await sideband.session.close(event_id="bye")
            closed = (await until(connection, "session.closed"))[-1]
            looked_on = [event async for event in sideband]
        with pytest.raises(ConnectionClosed):
            await connection.recv()
    wire.require_pure_live()
    assert said(first) == said(looked_on) == FIRST_REPLY.text
    assert is_loud(audio_of(first))
    heard_words = [e for e in looked_on if e.type == "session.input_transcript.delta"]
    assert "".join(word.delta for word in heard_words).startswith("large latte")
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(heard_words))
    assert isinstance(closed, SessionClosedEvent)
    assert (closed.reason, closed.client_event_id) == ("close_requested", "bye")
    assert closed.session.instructions == "Take orders."
    deltas = [e for e in looked_on if e.type == "session.output_transcript.delta"]
    assert (deltas[0].model_extra or {})["emotion"] == "happy"
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(deltas))
    # The track has no gaps: what was sent is what has passed.
    spans = [(e.start_ms, e.end_ms) for e in looked_on if e.type == "session.output_audio.delta"]
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert closed.usage.seconds * 1000 == spans[-1][1]
    reflected = [e.audio for e in looked_on if e.type == "session.input_audio.append"]
    assert b"".join(map(base64.b64decode, reflected)) == spoken()


async def test_speaking_over_a_reply_stops_it(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.01)
    async with started(wire) as connection:
        await say(connection)
        await heard(connection, "")
        await say(connection)
        after = await heard(connection, SECOND_REPLY.text)
    wire.require_pure_live()
    # Of what was generated only what had its time was said: seconds of minutes.
    assert len(said(after)) < 1000


async def test_a_long_conversation_stays_on_one_timeline(wire: Wire) -> None:
    replies = [ScriptedReply(f"Number {number}.") for number in range(4)]
    # In the middle one that is talked over: the next is told as if it had been short.
    wire.follow(*replies[:2], LONG_REPLY, *replies[2:], seconds_per_word=0.01)
    events: list[Any] = []
    async with started(wire) as connection:
        for reply in replies[:2]:
            await say(connection)
            events += await heard(connection, reply.text)
        await say(connection)
        events += await heard(connection, "")
        for reply in replies[2:]:
            await say(connection)
            events += await heard(connection, reply.text)
    wire.require_pure_live()
    for event_type in ("session.output_transcript.delta", "session.input_transcript.delta"):
        told = [event for event in events if event.type == event_type]
        assert len(told) >= len(replies)
        assert all(before.end_ms <= after.start_ms for before, after in pairwise(told))
