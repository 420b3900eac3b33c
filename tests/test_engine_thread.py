"""The engine's thread: async callers, back-pressure, failures that stay where they happen."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.config import CHUNK_SAMPLES, GREEDY, EngineConfig, SessionSettings
from backend.engine import Engine, EngineSession
from backend.errors import AudioInputError, SessionClosedError, SessionLimitError, SettingsError
from backend.events import Decision, Event, SessionFailed
from backend.model.checkpoint import Checkpoint

CALM = SessionSettings(sampling=GREEDY)


def noise(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(CHUNK_SAMPLES) * 0.1).astype(np.float32)


@pytest.fixture
def engine(golden_checkpoint: Checkpoint) -> Iterator[Engine]:
    with Engine(golden_checkpoint, EngineConfig(num_slots=2, max_pending_chunks=3)) as engine:
        yield engine


def hold_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No step is taken until the event is set."""
    gate = threading.Event()
    step = engine.core.step
    monkeypatch.setattr(engine.core, "step", lambda: gate.wait(30) and step())
    return gate


def hold_commands(engine: Engine) -> threading.Event:
    """No command is obeyed until the event is set."""
    gate = threading.Event()

    def hold() -> None:
        gate.wait(30)

    engine.command(hold)
    return gate


async def collect(session: EngineSession) -> list[Event]:
    return [event async for event in session.events()]


async def converse(engine: Engine, seeds: range) -> list[Event]:
    session = await engine.open_session(CALM)
    listening = asyncio.create_task(collect(session))
    for seed in seeds:
        await session.feed(noise(seed))
    session.finish()
    events = await listening
    await session.close()
    return events


def decisions(events: list[Event]) -> dict[int, float]:
    return {e.chunk: e.speak_probability for e in events if isinstance(e, Decision)}


def test_conversations_side_by_side_do_not_mix(engine: Engine) -> None:
    async def scenario() -> None:
        one = await converse(engine, range(8))
        other = await converse(engine, range(20, 26))
        both = await asyncio.gather(converse(engine, range(8)), converse(engine, range(20, 26)))
        assert decisions(both[0]) == pytest.approx(decisions(one), abs=1e-5)
        assert decisions(both[1]) == pytest.approx(decisions(other), abs=1e-5)
        assert len(decisions(one)) == 8
        assert engine.num_sessions == 0

    asyncio.run(scenario())


def test_events_end_for_a_session_that_heard_nothing(engine: Engine) -> None:
    async def scenario() -> None:
        session = await engine.open_session()
        session.finish()
        assert await collect(session) == []
        await session.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "chunk",
    [
        np.zeros(CHUNK_SAMPLES - 1, np.float32),
        np.zeros(CHUNK_SAMPLES),
        np.zeros((1, CHUNK_SAMPLES), np.float32),
        np.full(CHUNK_SAMPLES, np.nan, np.float32),
        np.full(CHUNK_SAMPLES, np.inf, np.float32),
    ],
    ids=["short", "float64", "two axes", "nan", "inf"],
)
def test_audio_that_cannot_be_used_is_refused(engine: Engine, chunk: np.ndarray) -> None:
    async def scenario() -> None:
        session = await engine.open_session()
        with pytest.raises(AudioInputError):
            await session.feed(chunk)
        assert await session.feed(noise(0)) == 0
        await session.close()

    asyncio.run(scenario())


def test_settings_change_while_a_session_goes_on(engine: Engine) -> None:
    async def scenario() -> None:
        session = await engine.open_session(CALM)
        with pytest.raises(SettingsError, match="too long"):
            await session.change_settings(replace(CALM, system_prompt="Be brief. " * 1000))
        await session.change_settings(replace(CALM, decision_bias=2.0))
        await session.feed(noise(0))
        session.finish()
        (decision, *_) = await collect(session)
        assert isinstance(decision, Decision)
        assert decision.threshold == pytest.approx(0.1192, abs=1e-4)
        await session.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("bias", [8.1, -9.0, float("nan"), float("inf")])
def test_a_bias_out_of_range_is_refused(bias: float) -> None:
    with pytest.raises(SettingsError, match="decision bias"):
        SessionSettings(decision_bias=bias)


def test_a_feeder_far_ahead_of_the_model_waits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_steps(engine, monkeypatch)

    async def scenario() -> None:
        session = await engine.open_session(CALM)
        for seed in range(3):
            await session.feed(noise(seed))
        waiting = asyncio.create_task(session.feed(noise(3)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.1)
        listening = asyncio.create_task(collect(session))
        gate.set()
        assert await waiting == 3
        session.finish()
        assert list(decisions(await listening)) == [0, 1, 2, 3]
        await session.close()

    asyncio.run(scenario())


def test_closing_wakes_a_feeder_and_a_listener(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = hold_steps(engine, monkeypatch)

    async def scenario() -> None:
        session = await engine.open_session(CALM)
        for seed in range(3):
            await session.feed(noise(seed))
        waiting = asyncio.create_task(session.feed(noise(3)))
        listening = asyncio.create_task(collect(session))
        await asyncio.sleep(0)
        closing = asyncio.create_task(session.close())
        with pytest.raises(SessionClosedError):
            await waiting
        await listening
        gate.set()
        await closing
        await session.close()
        with pytest.raises(SessionClosedError):
            session.interrupt()
        for _ in range(5):
            with pytest.raises(SessionClosedError):
                await session.feed(noise(4))

    asyncio.run(scenario())


def test_a_step_that_breaks_ends_only_who_was_in_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    async def scenario() -> None:
        idle = await engine.open_session(CALM)
        unlucky = await engine.open_session(CALM)
        with monkeypatch.context() as patch:
            patch.setattr(engine.core._runner, "encode", broken)
            await unlucky.feed(noise(0))
            events = await collect(unlucky)
        assert [type(event) for event in events] == [SessionFailed]
        await idle.feed(noise(1))
        idle.finish()
        assert len(decisions(await collect(idle))) == 1
        await unlucky.close()
        await idle.close()

    asyncio.run(scenario())


def test_a_loop_that_ends_in_a_step_ends_nobody_elses_conversation(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave() -> EngineSession:
        return await engine.open_session(CALM)

    left = asyncio.run(leave())
    # As when the loop ends right after the engine has looked whether it has.
    monkeypatch.setattr(left.loop, "is_closed", lambda: False)

    async def stay() -> list[Event]:
        session = await engine.open_session(CALM)
        gate = hold_commands(engine)
        engine.command(lambda: engine.core.hear(left._session, noise(0)))
        await session.feed(noise(1))
        session.finish()
        gate.set()
        events = await collect(session)
        await session.close()
        return events

    assert [type(event) for event in asyncio.run(stay())] == [Decision]


def test_a_device_that_fails_keeps_no_slot(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise RuntimeError("CUDA error")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine.core._runner, "forget", broken)
            with pytest.raises(RuntimeError, match="CUDA error"):
                await engine.open_session()
        assert engine.core.sessions == []

    asyncio.run(scenario())


def test_a_closed_session_frees_its_slot(engine: Engine) -> None:
    async def scenario() -> None:
        sessions = [await engine.open_session() for _ in range(2)]
        with pytest.raises(SessionLimitError):
            await engine.open_session()
        await sessions[0].close()
        reopened = await engine.open_session()
        await reopened.close()
        await sessions[1].close()

    asyncio.run(scenario())


def test_an_opener_that_gives_up_leaves_no_session(engine: Engine) -> None:
    async def scenario() -> None:
        gate = hold_commands(engine)
        opening = asyncio.create_task(engine.open_session())
        await asyncio.sleep(0)
        opening.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        sessions = [await engine.open_session() for _ in range(2)]
        for session in sessions:
            await session.close()

    asyncio.run(scenario())


def test_an_error_of_opening_reaches_the_opener(engine: Engine) -> None:
    async def scenario() -> None:
        with pytest.raises(SettingsError):
            await engine.open_session(SessionSettings(system_prompt="word " * 5000))

    asyncio.run(scenario())


def test_stopping_the_engine_ends_conversations(golden_checkpoint: Checkpoint) -> None:
    async def scenario() -> None:
        engine = Engine(golden_checkpoint, EngineConfig(num_slots=1))
        engine.start()
        session = await engine.open_session()
        await asyncio.to_thread(engine.close)
        events = await collect(session)
        assert [type(event) for event in events] == [SessionFailed]
        with pytest.raises(SessionClosedError):
            await session.feed(noise(0))
        await session.close()
        with pytest.raises(SessionClosedError, match="stopped"):
            await engine.open_session()

    asyncio.run(scenario())


def test_an_opener_that_comes_as_the_engine_stops_is_told(golden_checkpoint: Checkpoint) -> None:
    async def scenario() -> None:
        engine = Engine(golden_checkpoint, EngineConfig(num_slots=1))
        engine.start()
        gate = hold_commands(engine)
        opening = asyncio.create_task(engine.open_session())
        await asyncio.sleep(0)
        closing = threading.Thread(target=engine.close)
        closing.start()
        gate.set()
        # The loop comes to the opener only when the engine's thread is done.
        closing.join()
        session = await opening
        async with asyncio.timeout(30):
            assert [type(event) for event in await collect(session)] == [SessionFailed]
        await session.close()

    asyncio.run(scenario())


def test_a_reader_that_stops_reading_stops_the_feeder(engine: Engine) -> None:
    async def scenario() -> None:
        session = await engine.open_session(CALM)
        for seed in range(3):
            await session.feed(noise(seed))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.feed(noise(3)), 0.5)
        taken = 0
        async for event in session.events():
            taken += isinstance(event, Decision)
            if taken == 3:
                break
        assert await session.feed(noise(3)) == 3
        await session.close()

    asyncio.run(scenario())


def test_an_engine_runs_once(golden_checkpoint: Checkpoint) -> None:
    engine = Engine(golden_checkpoint, EngineConfig(num_slots=1))
    with engine:
        with pytest.raises(SessionClosedError, match="runs only once"):
            engine.start()
        # The first goes on all the same.
        engine.warm_up()
        assert len(decisions(asyncio.run(converse(engine, range(1))))) == 1
    with pytest.raises(SessionClosedError, match="runs only once"), engine:
        pass
    engine.close()


def test_an_engine_that_never_ran_can_be_closed(golden_checkpoint: Checkpoint) -> None:
    engine = Engine(golden_checkpoint, EngineConfig(num_slots=1))
    engine.close()
    engine.close()
    with pytest.raises(SessionClosedError, match="runs only once"):
        engine.start()
    with pytest.raises(SessionClosedError, match="was stopped"):
        asyncio.run(engine.open_session())
    with pytest.raises(SessionClosedError, match="was stopped"):
        engine.warm_up()
