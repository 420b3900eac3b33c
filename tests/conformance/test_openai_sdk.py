"""The `openai` package: typed events, text and audio, by voice and by keyboard."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import (
    ConversationItemInputAudioTranscriptionCompletedEvent,
    RealtimeServerEvent,
    ResponseDoneEvent,
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


@asynccontextmanager
async def connected(wire: Wire, modality: Modality) -> AsyncIterator[AsyncRealtimeConnection]:
    sdk = AsyncOpenAI(api_key="none", base_url=f"http://{wire.address}/v1")
    async with sdk.realtime.connect(model="audio-interaction") as connection:
        await connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": [modality],
                "audio": {
                    "input": {"transcription": {"model": "gpt-realtime-whisper"}},
                    "output": {"voice": VOICE},
                },
            }
        )
        yield connection


async def say(connection: AsyncRealtimeConnection) -> None:
    audio = base64.b64encode(spoken()).decode()
    await connection.input_audio_buffer.append(audio=audio)


async def write(connection: AsyncRealtimeConnection) -> None:
    await connection.conversation.item.create(
        item={
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": TYPED}],
        }
    )
    await connection.response.create()


async def until(connection: AsyncRealtimeConnection, event_type: str) -> list[RealtimeServerEvent]:
    """Everything up to the first event of a type."""
    events: list[RealtimeServerEvent] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not events or events[-1].type != event_type:
            events.append(await connection.recv())
    return events


def text_of(events: list[RealtimeServerEvent]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def transcript_of(events: list[RealtimeServerEvent]) -> str:
    return "".join(
        event.delta for event in events if event.type == "response.output_audio_transcript.delta"
    )


def audio_of(events: list[RealtimeServerEvent]) -> bytes:
    return b"".join(
        base64.b64decode(event.delta)
        for event in events
        if event.type == "response.output_audio.delta"
    )


def heard_in(events: list[RealtimeServerEvent]) -> str:
    kind = "conversation.item.input_audio_transcription.completed"
    (completed,) = [event for event in events if event.type == kind]
    assert isinstance(completed, ConversationItemInputAudioTranscriptionCompletedEvent)
    return completed.transcript


def done_of(events: list[RealtimeServerEvent]) -> ResponseDoneEvent:
    assert isinstance(events[-1], ResponseDoneEvent)
    return events[-1]


async def test_two_turns_in_text(wire: Wire) -> None:
    async with connected(wire, "text") as connection:
        await say(connection)
        first = await until(connection, "response.done")
        await write(connection)
        second = await until(connection, "response.done")
    assert text_of(first) == FIRST_REPLY.text
    assert text_of(second) == SECOND_REPLY.text
    assert heard_in(first).startswith("large latte")
    metadata = done_of(first).response.metadata
    assert metadata is not None
    assert metadata["emotion"] == "happy"
    wire.require_pure_ga()


async def test_two_turns_in_audio(wire: Wire) -> None:
    async with connected(wire, "audio") as connection:
        await say(connection)
        first = await until(connection, "response.done")
        await write(connection)
        second = await until(connection, "response.done")
    for events, reply in ((first, FIRST_REPLY), (second, SECOND_REPLY)):
        assert transcript_of(events) == reply.text
        assert seconds_of(audio_of(events)) > 0.5
    wire.require_pure_ga()


async def test_speaking_over_a_reply_ends_it(wire: Wire) -> None:
    wire.follow(LONG_REPLY, SECOND_REPLY, seconds_per_word=0.2)
    async with connected(wire, "audio") as connection:
        await say(connection)
        await until(connection, "response.output_audio.delta")
        await say(connection)
        ended = done_of(await until(connection, "response.done"))
        after = await until(connection, "response.done")
    wire.require_pure_ga()
    assert ended.response.status == "cancelled"
    assert ended.response.status_details is not None
    assert ended.response.status_details.reason == "turn_detected"
    assert transcript_of(after) == SECOND_REPLY.text


async def test_cancelled_reply_is_cut_where_it_was_heard(wire: Wire) -> None:
    wire.follow(LONG_REPLY, seconds_per_word=0.2)
    async with connected(wire, "audio") as connection:
        await connection.response.create()
        events = await until(connection, "response.output_audio.delta")
        heard = events[-1]
        assert heard.type == "response.output_audio.delta"
        await connection.response.cancel()
        ended = done_of(await until(connection, "response.done"))
        await connection.conversation.item.truncate(
            item_id=heard.item_id, content_index=0, audio_end_ms=300
        )
        await until(connection, "conversation.item.truncated")
    wire.require_pure_ga()
    assert ended.response.status == "cancelled"


async def test_mistake_is_an_event_and_the_conversation_goes_on(wire: Wire) -> None:
    async with connected(wire, "text") as connection:
        await connection.response.cancel(event_id="mistake")
        mistake = (await until(connection, "error"))[-1]
        await say(connection)
        assert text_of(await until(connection, "response.done")) == FIRST_REPLY.text
    assert mistake.type == "error"
    assert mistake.error.code == "response_cancel_not_active"
    assert mistake.error.event_id == "mistake"
