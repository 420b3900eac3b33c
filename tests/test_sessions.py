"""Conversations and their sockets: resuming, waiting in line, going quiet, limits and keys."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from backend.admission import FIRST_GUESS_SECONDS, MAX_IN_LINE, Admission
from backend.allowance import TokenBucket
from backend.audio import Samples
from backend.config import CHUNK_SAMPLES
from backend.events import Event
from backend.serving.process import ServingOptions
from backend.serving.sockets import SocketService
from backend.wires.connection import SocketLimits
from backend.wires.errors import CloseCode
from backend.wires.outbox import MessagesLostError, Outbox
from backend.wires.realtime.session import Dialect
from backend.wires.realtime.wire import REALTIME
from tests.scripted import ScriptedEngine, ScriptedReply, ScriptedSession
from tests.serving import serving
from tests.sockets import EXPECTED, WAIT_SECONDS, SteppedTime, house, settle

REPLY = ScriptedReply("One moment please.")
CHUNK = np.zeros(CHUNK_SAMPLES, np.float32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ramp(num_chunks: int) -> Samples:
    """Quiet audio in which every sample tells where it is."""
    levels = np.arange(num_chunks * CHUNK_SAMPLES) % 200
    return (levels / 32768).astype(np.float32)


# Resuming


async def test_events_of_the_dialect_are_numbered_and_others_are_not() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        duplex, plain = home.visit(), home.visit(Dialect.REALTIME)
        for visitor in (duplex, plain):
            visitor.send("response.create")
            await visitor.until("response.done")
        assert duplex.numbers == list(range(1, len(duplex.received) + 1))
        assert plain.numbers == []
        assert "resume_token" not in plain.received[0]


async def test_a_lost_socket_loses_nothing_and_nothing_comes_twice() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        first = home.visit()
        created = await first.until("session.created")
        audio = ramp(10)
        first.append(audio[: 5 * CHUNK_SAMPLES + 100])
        first.send("response.create")
        await first.until("response.done")
        # The socket breaks with events on the way that the client never gets.
        num_received = first.numbers[-4]
        await first.drop()
        await home.time.pass_by(59)
        second = await home.resume(created, num_received)
        resumed = await second.until("session.resumed")
        assert resumed["session_id"] == created["session"]["id"]
        assert resumed["attachment_generation"] == 2
        num_arrived = round(resumed["input_seconds"] * 16_000)
        assert num_arrived == 5 * CHUNK_SAMPLES + 100
        second.append(audio[num_arrived:])
        await second.until("response.listen")
        kept = first.received[:num_received] + second.received[1:]
        assert [event["server_event_seq"] for event in kept] == list(range(1, len(kept) + 1))
        by_number = {event["server_event_seq"]: event for event in first.received}
        for event in second.received[1:4]:
            assert event == by_number[event["server_event_seq"]]


async def test_no_sample_is_heard_twice_or_lost() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        audio = ramp(12)
        visitor = home.visit()
        created = await visitor.until("session.created")
        start, num_received = 0, 0
        for cut in (5_000, 20_000, 47_321):
            # What is sent last does not arrive before the socket breaks.
            visitor.append(audio[start:cut])
            await settle()
            num_received = max([num_received, *visitor.numbers])
            await visitor.drop()
            visitor = await home.resume(created, num_received)
            resumed = await visitor.until("session.resumed")
            start = round(resumed["input_seconds"] * 16_000)
            assert start == cut
        visitor.append(audio[start:])
        await settle()
        (session,) = engine.sessions
        heard = np.concatenate(session.chunks)
        np.testing.assert_allclose(heard, audio[: len(heard)], atol=2 / 32768)
        assert len(heard) == len(audio)


async def test_a_conversation_goes_on_while_nobody_listens() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        visitor.send("response.create")
        await settle()
        num_received = 1
        await visitor.drop()
        await home.time.pass_by(10)
        again = await home.resume(created, num_received)
        done = await again.until("response.done")
        assert done["response"]["status"] == "completed"
        assert again.numbers[0] == 2


async def test_a_conversation_waits_for_a_minute_and_no_longer() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        await visitor.drop()
        await home.time.pass_by(59)
        assert (engine.num_sessions, home.admission.num_taken) == (1, 1)
        await home.time.pass_by(2)
        assert (engine.num_sessions, home.admission.num_taken) == (0, 0)
        late = await home.resume(created, 1)
        assert await late.closed() == (CloseCode.NOT_FOUND, "session_resume_expired")


async def test_a_resumed_conversation_is_not_ended_by_the_loss_before() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        await visitor.drop()
        await home.time.pass_by(50)
        again = await home.resume(created, 1)
        await again.until("session.resumed")
        await home.time.pass_by(50)
        assert engine.num_sessions == 1
        again.send("session.heartbeat")
        await again.until("session.heartbeat_ack")


async def test_only_who_knows_the_token_resumes() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        created = await home.visit().until("session.created")
        thief = await home.resume(created | {"resume_token": "guessed"}, 1)
        assert await thief.closed() == (CloseCode.NOT_FOUND, "invalid_resume_token")


async def test_a_second_socket_replaces_the_first() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        first = home.visit()
        created = await first.until("session.created")
        second = await home.resume(created, 1)
        await second.until("session.resumed")
        assert await first.closed() == (CloseCode.REPLACED, "session_replaced")
        assert first.types[-1] == "session.replaced"
        await home.time.pass_by(120)
        second.append(CHUNK)
        await second.until("response.listen")
        (session,) = engine.sessions
        assert len(session.chunks) == 1


async def test_who_was_replaced_ends_nothing_by_leaving() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        first = home.visit()
        created = await first.until("session.created")
        # Its socket is stuck, which is why the client comes with another.
        first.reads.clear()
        second = await home.resume(created, 1)
        await second.until("session.resumed")
        leaving = asyncio.create_task(first.leave())
        await settle()
        assert engine.num_sessions == 1
        second.send("response.create")
        await second.until("response.done")
        first.reads.set()
        await leaving


async def test_nobody_resumes_from_what_was_never_told() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        created = await home.visit().until("session.created")
        future = await home.resume(created, 99)
        assert await future.closed() == (CloseCode.POLICY, "invalid_session_resume")


async def test_what_was_not_kept_is_said() -> None:
    """A reply of more than the eight megabytes that are kept of a conversation."""
    engine = ScriptedEngine([ScriptedReply(" ".join(["x" * 1_000_000] * 5))])
    async with house(engine) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        await visitor.drop()
        again = await home.resume(created, 1)
        again.send("response.create")
        await again.until("session.resumed")
        await again.drop()
        await home.time.pass_by(1)
        last = await home.resume(created, 1)
        await last.until("session.resumed")
        lost = await last.until("session.resync_required")
        assert lost["num_events_lost"] > 0
        await settle()
        assert last.numbers[0] == 2 + lost["num_events_lost"]
        assert last.numbers == list(range(last.numbers[0], last.numbers[-1] + 1))
        last.send("session.heartbeat")
        await last.until("session.heartbeat_ack")


async def test_the_server_forgets_what_was_acknowledged() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        visitor.send("response.create")
        await visitor.until("response.done")
        acknowledged = visitor.numbers[-1]
        visitor.send("session.event_ack", server_event_seq=acknowledged)
        visitor.send("session.heartbeat")
        await visitor.until("session.heartbeat_ack")
        await visitor.drop()
        again = await home.resume(created, 1)
        lost = await again.until("session.resync_required")
        assert lost["num_events_lost"] == acknowledged - 1


async def test_an_outbox_is_bounded() -> None:
    outbox = Outbox[str](lambda text, number: f"{number}: {text}", max_kept_bytes=10_000)
    reader = outbox.after(0)
    outbox.put("x" * 1_000 for _ in range(100))
    with pytest.raises(MessagesLostError):
        await anext(reader)
    kept = outbox.after(outbox.oldest_number - 1)
    texts = [(await anext(kept)).text for _ in range(outbox.oldest_number, 101)]
    assert sum(map(sys.getsizeof, texts)) <= 10_000
    assert [text.partition(":")[0] for text in texts] == [str(number) for number in range(92, 101)]


async def test_a_client_ends_its_conversation() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit()
        created = await visitor.until("session.created")
        visitor.send("session.close")
        assert await visitor.closed() == (CloseCode.NORMAL, "client_request")
        assert visitor.types[-1] == "session.closed"
        await settle()
        assert engine.num_sessions == 0
        again = await home.resume(created, 1)
        assert await again.error_code() == "session_resume_expired"


@pytest.mark.parametrize("dialect", Dialect)
async def test_who_closes_the_socket_has_left(dialect: Dialect) -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(dialect)
        await visitor.until("session.created")
        await visitor.leave()
        await settle()
        assert (engine.num_sessions, home.admission.num_taken) == (0, 0)


async def test_a_plain_client_ends_with_its_socket() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(Dialect.REALTIME)
        await visitor.until("session.created")
        await visitor.drop()
        await settle()
        assert engine.num_sessions == 0


class BrokenSession(ScriptedSession):
    def events(self) -> AsyncIterator[Event]:
        raise ZeroDivisionError("a bug")


async def test_a_bug_ends_one_conversation_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        other = home.visit()
        await other.until("session.created")
        monkeypatch.setattr("tests.scripted.ScriptedSession", BrokenSession)
        broken = home.visit()
        broken.append(CHUNK)
        assert await broken.error_code() == "session_failed"
        assert await broken.closed() == (CloseCode.SESSION_FAILED, "session_failed")
        other.append(CHUNK)
        await other.until("response.listen")
        await settle()
        assert (engine.num_sessions, home.admission.num_taken) == (1, 1)


async def out_of_memory(*_: object) -> ScriptedSession:
    raise RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("dialect", Dialect)
async def test_a_message_that_breaks_something_ends_its_conversation_and_says_so(
    dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedSession, "change_settings", out_of_memory)
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(dialect)
        visitor.send("session.update", session={"seed": 1})
        assert await visitor.closed() == (CloseCode.SESSION_FAILED, "session_failed")
        await settle()
        assert (engine.num_sessions, home.admission.num_taken) == (0, 0)


async def test_who_cannot_begin_for_a_reason_that_nobody_foresaw_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ScriptedEngine, "open_session", out_of_memory)
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit()
        assert await visitor.closed() == (CloseCode.SESSION_FAILED, "session_failed")
        assert home.admission.num_taken == 0


# The first message


async def test_settings_that_come_first_are_those_of_the_conversation() -> None:
    engine = ScriptedEngine([REPLY])
    async with house(engine) as home:
        visitor = home.visit(first_message=EXPECTED)
        await settle()
        assert (visitor.received, engine.num_sessions, home.admission.num_taken) == ([], 0, 0)
        visitor.send("session.update", session={"instructions": "Be brief.", "voice": "alloy"})
        created = await visitor.until("session.created")
        updated = await visitor.until("session.updated")
        assert created["session"]["instructions"] == "Be brief."
        assert created["session"] == updated["session"]
        (session,) = engine.sessions
        assert session.settings.system_prompt == "Be brief."


async def test_any_other_first_message_is_obeyed_in_a_new_conversation() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(first_message=EXPECTED)
        visitor.append(CHUNK)
        await visitor.until("response.listen")
        assert visitor.types[0] == "session.created"


async def test_who_waits_in_line_begins_with_the_first_settings() -> None:
    async with house(full_house()) as home:
        talking = home.visit()
        await talking.until("session.created")
        waiting = home.visit(first_message=EXPECTED)
        waiting.send("session.update", session={"instructions": "Be brief."})
        await waiting.until("session.queued")
        await talking.leave()
        created = await waiting.until("session.created")
        assert created["session"]["instructions"] == "Be brief."


BAD_BEGINNINGS: dict[str, tuple[str | bytes | None, str]] = {
    "nothing": (None, "first_message_expected"),
    "raw bytes": (b"\0\1", "binary_message"),
    "no event": ("Hello?", "invalid_json"),
    "unknown voice": (
        json.dumps({"type": "session.update", "session": {"voice": "nobody"}}),
        "invalid_value",
    ),
    "impossible seed": (
        json.dumps({"type": "session.update", "session": {"seed": -1}}),
        "invalid_value",
    ),
    "endless prompt": (
        json.dumps({"type": "session.update", "session": {"instructions": "x" * 2_000}}),
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", BAD_BEGINNINGS)
async def test_what_cannot_begin_is_refused(name: str) -> None:
    message, code = BAD_BEGINNINGS[name]
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(first_message=replace(EXPECTED, wait_seconds=0.05))
        if message is not None:
            visitor.send_text(message)
        assert await visitor.closed() == (CloseCode.POLICY, code)
        assert (home.engine.num_sessions, home.admission.num_taken) == (0, 0)


# Waiting in line


def full_house() -> ScriptedEngine:
    return ScriptedEngine([REPLY], num_slots=1)


async def test_clients_wait_their_turn() -> None:
    async with house(full_house()) as home:
        talking = home.visit()
        await talking.until("session.created")
        second = home.visit()
        queued = await second.until("session.queued")
        assert (queued["position"], queued["queue_length"]) == (1, 1)
        third = home.visit()
        assert (await third.until("session.queued"))["position"] == 2
        assert (await second.until("session.queue_update"))["queue_length"] == 2
        assert home.engine.num_sessions == 1
        await talking.leave()
        done = await second.until("session.queue_done")
        assert done["ticket_id"] == queued["ticket_id"]
        await second.until("session.created")
        assert (await third.until("session.queue_update"))["position"] == 1
        await second.leave()
        await third.until("session.created")
        assert home.engine.num_sessions == 1


async def test_nobody_jumps_the_line() -> None:
    async with house(full_house()) as home:
        talking = home.visit()
        await talking.until("session.created")
        waiting = home.visit()
        await waiting.until("session.queued")
        await talking.leave()
        late = home.visit()
        await waiting.until("session.created")
        await late.until("session.queued")
        assert "session.created" not in late.types


async def test_plain_clients_are_refused_and_do_not_wait() -> None:
    async with house(full_house()) as home:
        await home.visit().until("session.created")
        refused = home.visit(Dialect.REALTIME)
        assert await refused.closed() == (CloseCode.FULL, "session_limit_reached")


async def test_who_vanishes_leaves_the_line() -> None:
    async with house(full_house()) as home:
        talking = home.visit()
        await talking.until("session.created")
        gone, patient = home.visit(), home.visit()
        await patient.until("session.queued")
        await gone.drop()
        assert (await patient.until("session.queue_update"))["position"] == 1
        await talking.leave()
        await patient.until("session.created")
        assert home.admission.num_waiting == 0


async def test_a_place_that_comes_to_somebody_gone_is_the_next_ones() -> None:
    admission = Admission(1, SteppedTime())
    place = admission.enter()
    assert place is not None
    gone, patient = admission.queue_up(), admission.queue_up()
    assert gone is not None
    assert patient is not None
    admission.leave(place)
    assert (gone.place is not None, patient.place) == (True, None)
    admission.step_out(gone)
    assert patient.place is not None
    assert admission.num_taken == 1
    admission.leave(place)
    assert admission.num_taken == 1


async def test_settings_wait_with_their_client_and_sound_does_not() -> None:
    async with house(full_house()) as home:
        talking = home.visit()
        await talking.until("session.created")
        waiting = home.visit()
        await waiting.until("session.queued")
        waiting.append(np.zeros(200_000, np.float32))
        assert await waiting.error_code() == "session_queued"
        waiting.send("session.update", session={"instructions": "Be brief."})
        waiting.send("session.heartbeat")
        await waiting.until("session.heartbeat_ack")
        for _ in range(60):
            waiting.append(CHUNK)
        assert await waiting.error_code() == "session_queued"
        await talking.leave()
        updated = await waiting.until("session.updated")
        assert updated["session"]["instructions"] == "Be brief."


async def test_who_waits_can_leave() -> None:
    async with house(full_house()) as home:
        await home.visit().until("session.created")
        waiting = home.visit()
        waiting.send("session.close")
        assert await waiting.closed() == (CloseCode.NORMAL, "client_request")
        assert home.admission.num_waiting == 0


async def test_the_line_has_an_end() -> None:
    admission = Admission(0, SteppedTime())
    assert all(admission.queue_up() is not None for _ in range(MAX_IN_LINE))
    assert admission.queue_up() is None


async def test_the_expected_wait_follows_from_how_long_others_took() -> None:
    time = SteppedTime()
    admission = Admission(2, time)

    async def wait_seconds() -> list[float]:
        waiters = [waiter for _ in range(3) if (waiter := admission.queue_up())]
        waits = [
            (await anext(admission.standings(waiter))).estimated_wait_seconds for waiter in waiters
        ]
        for waiter in waiters:
            admission.step_out(waiter)
        return waits

    first = admission.enter()
    assert first is not None
    await time.pass_by(50)
    assert admission.enter() is not None
    assert await wait_seconds() == [
        FIRST_GUESS_SECONDS - 50,
        FIRST_GUESS_SECONDS,
        2 * FIRST_GUESS_SECONDS - 50,
    ]
    await time.pass_by(50)
    admission.leave(first)
    assert admission.enter() is not None
    # Conversations last 100 s here; one has lasted 50 s, one begins.
    assert await wait_seconds() == [50, 100, 150]


# Going quiet


async def test_a_quiet_conversation_ends_after_a_notice() -> None:
    async with house(ScriptedEngine([REPLY]), idle_seconds=600) as home:
        visitor = home.visit()
        await visitor.until("session.created")
        await home.time.pass_by(539)
        assert visitor.types == ["session.created"]
        await home.time.pass_by(2)
        notice = await visitor.until("session.go_away")
        assert (notice["reason"], notice["time_left_ms"]) == ("idle", 60_000)
        await home.time.pass_by(60)
        assert (await visitor.until("session.expired"))["reason"] == "idle"
        assert await visitor.closed() == (CloseCode.EXPIRED, "idle")
        await settle()
        assert (home.engine.num_sessions, home.admission.num_taken) == (0, 0)


ACTIVITY: dict[str, dict[str, Any]] = {
    "session.update": {"session": {"temperature": 0}},
    "session.heartbeat": {"active": True},
    "response.create": {},
}


@pytest.mark.parametrize("event_type", ACTIVITY)
async def test_activity_takes_the_notice_back(event_type: str) -> None:
    async with house(ScriptedEngine([REPLY]), idle_seconds=600) as home:
        visitor = home.visit()
        await home.time.pass_by(550)
        await visitor.until("session.go_away")
        visitor.send(event_type, **ACTIVITY[event_type])
        assert (await visitor.until("turn.event"))["event"] == "activity_resumed"
        await home.time.pass_by(530)
        assert visitor.end is None
        await home.time.pass_by(15)
        await visitor.until("session.go_away")
        await home.time.pass_by(60)
        assert await visitor.closed() == (CloseCode.EXPIRED, "idle")


async def test_silence_and_signs_of_life_are_no_activity() -> None:
    async with house(ScriptedEngine([REPLY]), idle_seconds=600) as home:
        visitor = home.visit()
        for _ in range(10):
            visitor.append(CHUNK)
            visitor.send("session.heartbeat")
            await home.time.pass_by(60.1)
        assert await visitor.closed() == (CloseCode.EXPIRED, "idle")


async def test_a_plain_client_is_told_by_an_error() -> None:
    async with house(ScriptedEngine([REPLY]), idle_seconds=600) as home:
        visitor = home.visit(Dialect.REALTIME)
        await home.time.pass_by(601)
        assert await visitor.error_code() == "session_expired"
        assert await visitor.closed() == (CloseCode.EXPIRED, "session_expired")


async def test_without_a_limit_nothing_ends() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit()
        await home.time.pass_by(100_000)
        assert visitor.types == ["session.created"]


# Limits


async def test_what_comes_too_fast_waits_and_nothing_is_lost() -> None:
    limits = SocketLimits(messages_per_second=2, message_burst=4)
    async with house(ScriptedEngine([REPLY])) as home:
        visitor = home.visit(limits=limits)
        for _ in range(12):
            visitor.append(CHUNK)
        await settle()
        # The fifth is heard on credit; the sixth is not read before that is paid.
        assert visitor.types.count("response.listen") == 5
        await home.time.pass_by(1.0)
        assert visitor.types.count("response.listen") == 7
        await home.time.pass_by(10.0)
        assert visitor.types.count("response.listen") == 12


async def test_a_bucket_fills_up_and_no_further() -> None:
    time = SteppedTime()
    bucket = TokenBucket(per_second=1, burst=3, time=time)
    assert [bucket.take_now(1) for _ in range(4)] == [True, True, True, False]
    await time.pass_by(2)
    assert [bucket.take_now(1) for _ in range(3)] == [True, True, False]
    await time.pass_by(1_000)
    assert [bucket.take_now(1) for _ in range(4)] == [True, True, True, False]


async def test_who_errs_without_end_is_let_go_at_once() -> None:
    async with house(ScriptedEngine([REPLY])) as home:
        visitor, other = home.visit(), home.visit()
        for _ in range(300):
            visitor.send_text("nonsense")
        assert await visitor.closed() == (CloseCode.POLICY, "too_many_errors")
        await settle()
        assert home.engine.num_sessions == 1
        other.append(CHUNK)
        await other.until("response.listen")


# The door


async def test_who_leaves_while_it_is_told_something_has_left() -> None:
    engine = ScriptedEngine([REPLY])
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    messages.put_nowait({"type": "websocket.connect"})

    async def send(message: dict[str, Any]) -> None:
        if "session.created" in message.get("text", ""):
            messages.put_nowait({"type": "websocket.disconnect", "code": 1001})
            raise OSError("the socket is closed")

    async def receive() -> dict[str, Any]:
        message = await messages.get()
        # What was sent fails before the goodbye is read.
        await settle()
        return message

    scope = {
        "type": "websocket",
        "headers": [],
        "query_string": b"duplex=1",
        "client": ("203.0.113.7", 1),
    }
    service = SocketService(engine, ServingOptions())  # type: ignore[arg-type]
    await service.serve(REALTIME, WebSocket(scope, receive, send))  # type: ignore[arg-type]
    await settle()
    assert (engine.num_sessions, service.admission.num_taken) == (0, 0)


def test_a_server_asks_for_its_key_and_resumes_a_broken_connection() -> None:
    """Over the network: the key in a header and as a subprotocol, and a connection that is cut."""
    key = "sesame"
    engine = ScriptedEngine([REPLY], num_slots=1)
    with serving(engine, options=ServingOptions(access_key=key)) as address:
        url = f"ws://{address}/v1/realtime?duplex=1&input_rate=16000"
        with connect(url) as refused:
            error = json.loads(refused.recv(timeout=WAIT_SECONDS))["error"]
            assert error["code"] == "invalid_api_key"
            with pytest.raises(ConnectionClosed) as closed:
                refused.recv(timeout=WAIT_SECONDS)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 3000
        with connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as first:
            created = json.loads(first.recv(timeout=WAIT_SECONDS))
            first.socket.shutdown(socket.SHUT_RDWR)
        offered: Any = ["realtime", f"openai-insecure-api-key.{key}"]
        with connect(f"{url}&autostart=0", subprotocols=offered) as second:
            resume = {
                "type": "session.resume",
                "session_id": created["session"]["id"],
                "resume_token": created["resume_token"],
                "last_received_server_event_seq": 1,
            }
            second.send(json.dumps(resume))
            resumed = json.loads(second.recv(timeout=WAIT_SECONDS))
            assert (resumed["type"], resumed["input_seconds"]) == ("session.resumed", 0.0)
            second.send(json.dumps({"type": "response.create"}))
            event = json.loads(second.recv(timeout=WAIT_SECONDS))
            while event["type"] != "response.done":
                event = json.loads(second.recv(timeout=WAIT_SECONDS))
            assert engine.num_sessions == 1
