"""A conversation goes on in another process from what is kept of it, as if nothing had happened."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from backend.audio import Samples, read_audio
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.engine.session import Past, PastChunk
from backend.events import ContextRolled, Decision, Event, TextDelta, TurnDone, TurnStarted
from backend.journal import (
    RETRY_SECONDS,
    Entry,
    JournalError,
    JournalRecord,
    JournalRecords,
    OwnJournal,
    Written,
)
from backend.model.checkpoint import Checkpoint
from backend.serving.server import SAMPLES_FOLDER
from tests.scripted import ScriptedEngine
from tests.scripted_voices import Cast
from tests.sockets import EXPECTED, WAIT_SECONDS, House, SteppedTime, Visitor, WireEvent

pytestmark = pytest.mark.anyio

DRAWN = SessionSettings(seed=7)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def engine(embedded_checkpoint: Checkpoint) -> Iterator[Engine]:
    with Engine(embedded_checkpoint, EngineConfig(num_slots=4, max_positions=512)) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Two orders, each with time for an answer: 55 chunks."""
    audio = [
        read_audio(SAMPLES_FOLDER / f"{name}.ogg")
        for name in ("order_large_dark_roast_americano", "order_small_latte_double_shot")
    ]
    quiet = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    whole = np.concatenate([audio[0], quiet, audio[1], quiet, quiet, quiet])
    return whole[: len(whole) // CHUNK_SAMPLES * CHUNK_SAMPLES]


FIRST_ORDER = 22 * CHUNK_SAMPLES
"""So much of it is the first order, with most of the quiet after it."""


def chunks_of(audio: Samples) -> list[Samples]:
    return list(audio.reshape(-1, CHUNK_SAMPLES))


# The engine.


async def heard(
    engine: Engine, chunks: list[Samples], past: Past | None = None, fed: int = 0
) -> list[Event]:
    session = await engine.open_session(DRAWN, past=past)

    async def feed() -> None:
        for chunk in chunks[fed:]:
            await session.feed(chunk)
        session.finish()

    feeding = asyncio.create_task(feed())
    events = [event async for event in session.events()]
    await feeding
    await session.close()
    return events


def past_of(events: list[Event], chunks: list[Samples]) -> Past:
    """What an engine that told these events, and no more, has heard and said."""
    tokens: dict[int, list[int]] = {}
    loudest: dict[int, float] = {}
    in_context: set[int] = set()
    num_turns, answered = 0, None
    for event in events:
        match event:
            case Decision():
                tokens[event.chunk], loudest[event.chunk] = list(event.token_ids), event.loudest
                in_context.add(event.chunk)
                num_turns += event.speak
                answered = event.chunk if event.speak else answered
            case TurnStarted() | TextDelta() | TurnDone():
                tokens[max(tokens)] += event.token_ids
            case ContextRolled():
                in_context = set(event.chunks)
    past = [
        PastChunk(n, chunks[n], loudest[n], tokens[n] if n in in_context else None)
        for n in tokens
        if n in in_context or n + 1 in in_context
    ]
    num_draws = sum(len(said) for said in tokens.values())
    return Past(past, num_turns, num_draws, answered)


async def test_an_engine_goes_on_with_another_ones_conversation(
    engine: Engine, speech: Samples
) -> None:
    """Wherever it broke off: before a reply and within one, and after a roll."""
    chunks = chunks_of(speech)
    whole = await heard(engine, chunks)
    said = [number for number, event in enumerate(whole) if isinstance(event, TextDelta)]
    rolled = [number for number, event in enumerate(whole) if isinstance(event, ContextRolled)]
    assert said, "the recording is to be answered"
    assert rolled, "the recording is to be long enough for a roll"
    begun = next(n for n, event in enumerate(whole) if isinstance(event, TurnStarted))
    for told in (begun, said[2] + 1, rolled[0] + 2):
        past = past_of(whole[:told], chunks)
        num_heard = max((chunk.number for chunk in past.chunks), default=-1) + 1
        rest = await heard(engine, chunks, past, num_heard)
        assert texts(whole[told:]) == texts(rest), f"after {told} events"
        np.testing.assert_allclose(odds(whole[told:]), odds(rest), atol=1e-3)


def odds(events: list[Event]) -> list[float]:
    return [event.speak_probability for event in events if isinstance(event, Decision)]


def texts(events: list[Event]) -> list[tuple[Any, ...]]:
    """What was decided and said."""
    found: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case Decision():
                found.append((event.chunk, event.speak))
            case TurnStarted():
                found.append((event.turn, event.chunk, event.emotion))
            case TextDelta():
                found.append((event.turn, event.delta))
            case TurnDone():
                found.append((event.turn, event.text, event.num_tokens))
    return found


# Conversations.


class CutOffJournal:
    """A journal's as a process sees it, which may end at any time."""

    def __init__(self, records: JournalRecords) -> None:
        self._journal = OwnJournal(records)
        self.is_cut = asyncio.Event()
        self.is_lost = False

    async def keep(self, session_id: str, record: JournalRecord) -> Written:
        await self._is_there()
        return await self._journal.keep(session_id, record)

    async def write(self, session_id: str, generation: int, entry: Entry) -> Written:
        await self._is_there()
        return await self._journal.write(session_id, generation, entry)

    async def take(
        self, session_id: str, resume_token: str, num_received: int
    ) -> JournalRecord | None:
        return await self._journal.take(session_id, resume_token, num_received)

    async def end(self, session_id: str, generation: int) -> None:
        if not self.is_cut.is_set():
            await self._journal.end(session_id, generation)

    async def _is_there(self) -> None:
        if self.is_cut.is_set():
            await asyncio.Event().wait()
        if self.is_lost:
            raise JournalError("it does not answer")


class Processes:
    """Servers over one journal."""

    def __init__(self, engine: Engine) -> None:
        self._engine = cast(ScriptedEngine, engine)
        self.records = JournalRecords(SteppedTime().now)
        self.houses: list[House] = []
        self.journals: list[CutOffJournal] = []

    def start(self) -> House:
        self.journals.append(CutOffJournal(self.records))
        self.houses.append(House(self._engine, 0.0, self.journals[-1], Cast().voices))
        return self.houses[-1]


@asynccontextmanager
async def processes(engine: Engine) -> AsyncIterator[Processes]:
    started = Processes(engine)
    try:
        yield started
    finally:
        for home in started.houses:
            await home.empty()


async def begun(home: House, **session: Any) -> tuple[Visitor, WireEvent]:
    visitor = home.visit(first_message=EXPECTED)
    visitor.send("session.update", session={"seed": 7, **session})
    created = await visitor.until("session.created")
    await visitor.until("session.updated")
    return visitor, created


def send(visitor: Visitor, audio: Samples) -> None:
    for start in range(0, len(audio), 1600):
        visitor.append(audio[start : start + 1600])


def told(events: list[WireEvent]) -> list[Any]:
    """What a client was told of what it heard and said, in order, without times and ids."""
    found: list[Any] = []
    for event in events:
        match event["type"]:
            case "response.listen":
                found.append(event["response"]["metadata"]["chunk"])
            case "response.created" | "response.done" as kind:
                found.append((kind, event["response"]["status"]))
            case "response.output_text.delta" | "response.output_audio_transcript.delta":
                found.append(event["delta"])
            case "conversation.item.added":
                found.append(event["item"]["role"])
    return found


def sound(events: list[WireEvent]) -> bytes:
    return b"".join(
        base64.b64decode(event["delta"])
        for event in events
        if event["type"] == "response.output_audio.delta"
    )


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not is_so():  # noqa: ASYNC110 (nobody tells of it)
            await asyncio.sleep(0.01)


async def all_heard(visitor: Visitor, num_chunks: int) -> None:
    """Until the last chunk was decided on, and all that was to be said has been."""
    while (await visitor.until("response.listen"))["response"]["metadata"][
        "chunk"
    ] < num_chunks - 1:
        pass


async def all_said(visitor: Visitor) -> None:
    """Until no reply is under way: its sound may come after the last chunk was decided on."""

    def is_under_way() -> bool:
        kinds = [event["type"] for event in visitor.received]
        return kinds.count("response.done") < kinds.count("response.created")

    await until(lambda: not is_under_way())


async def uninterrupted(home: House, *said: Samples, **session: Any) -> list[WireEvent]:
    visitor, _ = await begun(home, **session)
    for part in said[:-1]:
        send(visitor, part)
        await visitor.until("response.done")
    send(visitor, said[-1])
    await all_heard(visitor, sum(map(len, said)) // CHUNK_SAMPLES)
    await all_said(visitor)
    await visitor.leave()
    return visitor.received


@pytest.mark.parametrize("last_seen", ["response.output_text.delta", "response.done"])
async def test_another_process_goes_on_where_one_broke_off(
    engine: Engine, speech: Samples, last_seen: str
) -> None:
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        # The second order is said after the first was answered, as people do: where sound comes
        # all at once, what is an utterance hangs on when voice activity was looked at.
        half = FIRST_ORDER + 700
        whole = await uninterrupted(first, speech[:half], speech[half:])
        visitor, created = await begun(first)
        send(visitor, speech[:half])
        await visitor.until("response.output_text.delta")
        await visitor.until(last_seen)
        started.journals[0].is_cut.set()
        # What had been sent by then and is on the way comes still.
        await visitor.drop()
        again = await second.resume(created, visitor.numbers[-1])
        resumed = await again.until("session.resumed")
        num_arrived = round(resumed["input_seconds"] * SAMPLE_RATE_HZ)
        assert num_arrived % CHUNK_SAMPLES == 0
        send(again, speech[num_arrived:half])
        if "response.done" not in [event["type"] for event in visitor.received]:
            await again.until("response.done")
        send(again, speech[max(half, num_arrived) :])
        await all_heard(again, len(speech) // CHUNK_SAMPLES)
        await again.leave()
        numbers = visitor.numbers + again.numbers
        assert numbers == list(range(1, len(numbers) + 1))
        assert told(visitor.received + again.received) == told(whole)
        assert resumed["attachment_generation"] == 2


async def test_a_voice_goes_on_within_its_sentence(engine: Engine, speech: Samples) -> None:
    # The first order alone: what is said after it could cut the reply's sound short.
    speech = speech[:FIRST_ORDER]
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        whole = await uninterrupted(first, speech, output_modalities=["audio"])
        visitor, created = await begun(first, output_modalities=["audio"])
        send(visitor, speech)
        await visitor.until("response.output_audio.delta")
        started.journals[0].is_cut.set()
        await visitor.drop()
        assert 0 < len(sound(visitor.received)) < len(sound(whole))
        again = await second.resume(created, visitor.numbers[-1])
        resumed = await again.until("session.resumed")
        send(again, speech[round(resumed["input_seconds"] * SAMPLE_RATE_HZ) :])
        await all_heard(again, len(speech) // CHUNK_SAMPLES)
        await until(lambda: "response.done" in [event["type"] for event in again.received])
        await again.leave()
        assert sound(visitor.received + again.received) == sound(whole)


async def test_who_had_it_is_fenced_off(engine: Engine, speech: Samples) -> None:
    """A process that lives on tells its client nothing more, and frees the place."""
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        visitor, created = await begun(first)
        send(visitor, speech[: 4 * CHUNK_SAMPLES])
        await all_heard(visitor, 4)
        again = await second.resume(created, visitor.numbers[-1])
        await again.until("session.resumed")
        num_received = len(visitor.received)
        send(visitor, speech[4 * CHUNK_SAMPLES : 6 * CHUNK_SAMPLES])
        assert await visitor.closed() == (4001, "session_replaced")
        assert [event["type"] for event in visitor.received[num_received:]] == ["session.replaced"]
        await until(lambda: not first.admission.num_taken)
        # What it never told is heard again where the conversation is now.
        send(again, speech[4 * CHUNK_SAMPLES : 6 * CHUNK_SAMPLES])
        await all_heard(again, 6)
        await again.leave()


async def test_a_client_may_come_back_to_where_it_was_before(
    engine: Engine, speech: Samples
) -> None:
    """That process knows nothing of what another has told meanwhile, and asks the journal."""
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        visitor, created = await begun(first)
        numbers: list[int] = []
        for number, home in enumerate((first, second, first)):
            if number:
                visitor = await home.resume(created, numbers[-1])
                await visitor.until("session.resumed")
            send(visitor, speech[number * CHUNK_SAMPLES : (number + 1) * CHUNK_SAMPLES])
            await all_heard(visitor, number + 1)
            await visitor.drop()
            numbers += visitor.numbers
        assert numbers == list(range(1, len(numbers) + 1))


async def test_typed_text_that_was_taken_is_heard_by_the_next(engine: Engine) -> None:
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        visitor, created = await begun(first)
        content = [{"type": "input_text", "text": "a large cappuccino"}]
        visitor.send(
            "conversation.item.create",
            item={"id": "mine", "type": "message", "role": "user", "content": content},
        )
        await visitor.until("conversation.item.added")
        started.journals[0].is_cut.set()
        await visitor.drop()
        again = await second.resume(created, visitor.numbers[-1])
        await again.until("session.resumed")
        again.send("response.create")
        done = await again.until("response.done")
        assert done["response"]["output"][0]["content"][0]["text"]
        again.send("conversation.item.retrieve", item_id="mine")
        retrieved = await again.until("conversation.item.retrieved")
        assert retrieved["item"]["content"] == content
        await again.leave()


async def test_a_journal_that_dies_costs_only_takeovers_until_there_is_another(
    engine: Engine, speech: Samples
) -> None:
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        visitor, created = await begun(first)
        started.journals[0].is_lost = True
        send(visitor, speech[: 4 * CHUNK_SAMPLES])
        await all_heard(visitor, 4)
        # Nothing is known of what was told since.
        again = await second.resume(created, visitor.numbers[-1])
        assert await again.closed() == (4004, "session_resume_expired")
        here = await first.resume(created, visitor.numbers[-1])
        await here.until("session.resumed")
        # Another one, which knows of nothing.
        started.records.end(created["session"]["id"], 1)
        started.journals[0].is_lost = False
        await first.time.pass_by(RETRY_SECONDS)
        await until(lambda: started.records.num_bytes > 0)
        await here.drop()
        again = await second.resume(created, visitor.numbers[-1])
        resumed = await again.until("session.resumed")
        assert resumed["input_seconds"] == pytest.approx(4 * CHUNK_SAMPLES / SAMPLE_RATE_HZ)
        send(again, speech[4 * CHUNK_SAMPLES : 6 * CHUNK_SAMPLES])
        await all_heard(again, 6)
        await again.leave()


async def test_a_server_that_ends_hands_its_conversations_over(
    engine: Engine, speech: Samples
) -> None:
    async with processes(engine) as started:
        first, second = started.start(), started.start()
        visitor, created = await begun(first)
        send(visitor, speech[: 4 * CHUNK_SAMPLES])
        await all_heard(visitor, 4)
        async with first.time.running():
            await first.conversations.hand_over()
        assert await visitor.closed() == (1012, "moved")
        assert await first.visit().closed() == (1012, "place_elsewhere")
        again = await second.resume(created, visitor.numbers[-1])
        resumed = await again.until("session.resumed")
        assert resumed["input_seconds"] == pytest.approx(4 * CHUNK_SAMPLES / SAMPLE_RATE_HZ)
        send(again, speech[4 * CHUNK_SAMPLES : 6 * CHUNK_SAMPLES])
        await all_heard(again, 6)
        await again.leave()


async def test_a_record_ends_with_its_conversation(engine: Engine, speech: Samples) -> None:
    async with processes(engine) as started:
        home = started.start()
        visitor, created = await begun(home)
        assert started.records.num_bytes
        visitor.send("session.close")
        await visitor.until("session.closed")
        await until(lambda: not started.records.num_bytes)
        await visitor.drop()
