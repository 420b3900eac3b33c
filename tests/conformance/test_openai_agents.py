"""`openai-agents`: its realtime runner and session, by voice and by keyboard."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from agents.realtime import (
    RealtimeAgent,
    RealtimeAudio,
    RealtimeAudioInterrupted,
    RealtimeError,
    RealtimeModelConfig,
    RealtimeRawModelEvent,
    RealtimeRunner,
    RealtimeSession,
    RealtimeSessionEvent,
)

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

INSTRUCTIONS = "Take orders."


@pytest.fixture(autouse=True)
def _no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@asynccontextmanager
async def running(wire: Wire, modality: Modality) -> AsyncIterator[RealtimeSession]:
    runner = RealtimeRunner(RealtimeAgent(name="barista", instructions=INSTRUCTIONS))
    config: RealtimeModelConfig = {
        "url": f"ws://{wire.address}/v1/realtime",
        "api_key": "none",
        "initial_model_settings": {"modalities": [modality], "voice": VOICE},
    }
    async with await runner.run(model_config=config) as session:
        yield session


async def until(session: RealtimeSession, event_type: str) -> list[RealtimeSessionEvent]:
    """What the session tells up to a server event of a type."""
    events: list[RealtimeSessionEvent] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for event in session:
            assert not isinstance(event, RealtimeError), event
            events.append(event)
            if (
                isinstance(event, RealtimeRawModelEvent)
                and event.data.type == "raw_server_event"
                and event.data.data["type"] == event_type
            ):
                return events
    raise AssertionError(f"the session ended before {event_type}")


def said(session: RealtimeSession) -> list[str | None]:
    """The replies in the session's own history."""
    return [
        part.text if part.type == "text" else part.transcript
        for item in session._history
        if item.type == "message" and item.role == "assistant"
        for part in item.content
    ]


def audio_of(events: list[RealtimeSessionEvent]) -> bytes:
    return b"".join(event.audio.data for event in events if isinstance(event, RealtimeAudio))


async def test_two_turns_in_text(wire: Wire) -> None:
    async with running(wire, "text") as session:
        await session.send_audio(spoken())
        await until(session, "response.done")
        await session.send_message(TYPED)
        await until(session, "response.done")
        assert said(session) == [FIRST_REPLY.text, SECOND_REPLY.text]
    assert wire.told("session.updated")[0]["session"]["instructions"] == INSTRUCTIONS
    wire.require_pure_ga()


async def test_two_turns_in_audio(wire: Wire) -> None:
    async with running(wire, "audio") as session:
        await session.send_audio(spoken())
        first = await until(session, "response.done")
        await session.send_message(TYPED)
        second = await until(session, "response.done")
        assert said(session) == [FIRST_REPLY.text, SECOND_REPLY.text]
    assert seconds_of(audio_of(first)) > 0.5
    assert seconds_of(audio_of(second)) > 0.5
    wire.require_pure_ga()


async def test_speaking_over_a_reply_interrupts_it(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    async with running(wire, "audio") as session:
        await session.send_audio(spoken())
        await until(session, "response.output_audio.delta")
        await session.send_audio(spoken())
        interrupted = await until(session, "response.done")
        await until(session, "response.done")
        assert said(session)[-1] == SECOND_REPLY.text
    wire.require_pure_ga()
    assert any(isinstance(event, RealtimeAudioInterrupted) for event in interrupted)
    statuses = [event["response"]["status"] for event in wire.told("response.done")]
    assert statuses == ["cancelled", "completed"]
    # It tells the server how much was heard, and asks what is left of the item.
    assert wire.sent("conversation.item.truncate")
    assert wire.told("conversation.item.retrieved")


async def test_interrupt_stops_the_reply(wire: Wire) -> None:
    wire.follow(LONG_REPLY, seconds_per_word=0.2)
    async with running(wire, "audio") as session:
        await session.send_audio(spoken())
        await until(session, "response.output_audio.delta")
        await session.interrupt()
        await until(session, "response.done")
    wire.require_pure_ga()
    assert wire.told("response.done")[0]["response"]["status"] == "cancelled"
    assert wire.told("conversation.item.truncated")
