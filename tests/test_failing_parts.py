"""When a part fails, those who are concerned are told, and the rest goes on."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import app
from backend.config import CHUNK_SAMPLES, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.errors import EngineFailedError
from backend.events import SessionFailed
from backend.model.checkpoint import Checkpoint
from backend.serving import server
from backend.serving.listening import listen_on
from backend.serving.server import ServingOptions, serve

WAIT_SECONDS = 60.0
QUIET = np.zeros(CHUNK_SAMPLES, np.float32)

# The engine


class HangingEngine(Engine):
    """From `hang` on no step comes back, as where a driver waits for a broken device."""

    def __init__(self, checkpoint: Checkpoint, patience_seconds: float = 0.2) -> None:
        config = EngineConfig(num_slots=2, least_patience_seconds=patience_seconds)
        super().__init__(checkpoint, config)
        self.hangs = threading.Event()
        self.may_go_on = threading.Event()

    def hang(self) -> None:
        self.core.step = self._never  # type: ignore[method-assign]

    def _never(self) -> Any:
        self.hangs.set()
        self.may_go_on.wait(WAIT_SECONDS)
        return iter(())


def break_thread(engine: Engine) -> None:
    """Nothing that is caught where steps fail."""

    def broken() -> bool:
        raise MemoryError

    engine.core.has_work = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("fails", ["hangs", "breaks"])
def test_conversations_end_with_an_engine_that(fails: str, golden_checkpoint: Checkpoint) -> None:
    async def scenario(engine: HangingEngine) -> None:
        talking, idle = await engine.open_session(), await engine.open_session()
        asked: list[asyncio.Task[None]] = []
        if fails == "hangs":
            engine.hang()
            await talking.feed(QUIET)
            await asyncio.to_thread(engine.hangs.wait, WAIT_SECONDS)
            asked.append(asyncio.create_task(talking.change_settings(SessionSettings())))
        else:
            break_thread(engine)
            await talking.feed(QUIET)
        async with asyncio.timeout(WAIT_SECONDS):
            for session in (talking, idle):
                *_, event = [event async for event in session.events()]
                assert isinstance(event, SessionFailed)
                assert event.of_engine
                assert event.message.startswith("the engine has failed")
                await session.close()
            for question in asked:
                with pytest.raises(EngineFailedError):
                    await question
            with pytest.raises(EngineFailedError):
                await engine.open_session()

    with HangingEngine(golden_checkpoint) as engine:
        engine.warm_up()
        asyncio.run(scenario(engine))
        reason = engine.failed.result(WAIT_SECONDS)
        assert reason.startswith(
            "a step did not come back" if fails == "hangs" else "its thread broke: MemoryError"
        )
        # Leaving the block does not wait for the thread.
        engine.close()
        engine.may_go_on.set()


def test_an_engine_that_works_and_rests_is_not_taken_to_hang(golden_checkpoint: Checkpoint) -> None:
    with HangingEngine(golden_checkpoint, patience_seconds=0.5) as engine:
        engine.warm_up()
        list(engine.stream([QUIET] * 3))
        assert not engine._has_ended.wait(1.5)
        assert not engine.failed.done()


def health(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["status"]
    except OSError:
        return 0, ""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.02)


def last_error(socket: ClientConnection) -> tuple[str, int]:
    """The code of the last error that is told, and the code with which the socket closes."""
    code = ""
    with suppress(ConnectionClosed):
        while True:
            event = json.loads(socket.recv(WAIT_SECONDS))
            code = event["error"]["code"] if event["type"] == "error" else code
    assert socket.close_code is not None
    return code, socket.close_code


def test_a_server_whose_engine_hangs_says_so_and_ends(
    golden_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FAREWELL_SECONDS", 1.0)
    listening = listen_on("127.0.0.1", 0)
    port = listening.getsockname()[1]
    with HangingEngine(golden_checkpoint) as engine, ThreadPoolExecutor(1) as pool:

        def open_engine(_: object) -> Engine:
            engine.warm_up()
            return engine

        serving: Future[None] = pool.submit(
            serve, open_engine, listening, ServingOptions(), lambda: None
        )
        wait_for(lambda: health(port) == (200, "ok"))
        address = f"ws://127.0.0.1:{port}/v1/realtime"
        with connect(address) as talking, connect(address) as idle:
            for socket in (talking, idle):
                assert json.loads(socket.recv(WAIT_SECONDS))["type"] == "session.created"
            engine.hang()
            talking.send(json.dumps({"type": "response.create"}))
            for socket in (talking, idle):
                assert last_error(socket) == ("engine_failed", 1011)
        assert health(port) == (503, "failed")
        with connect(address) as late:
            assert last_error(late) == ("engine_failed", 1011)
        with pytest.raises(EngineFailedError, match="did not come back"):
            serving.result(WAIT_SECONDS)
        engine.may_go_on.set()


def test_the_exit_code_says_that_the_engine_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: object) -> int:
        raise EngineFailedError("the engine failed (it is gone): start the server again")

    codes: list[int] = []
    monkeypatch.setitem(app.COMMANDS, "serve", failing)
    monkeypatch.setattr("os._exit", codes.append)
    app.main([])
    assert codes == [app.EXIT_ENGINE_FAILED]
    assert capsys.readouterr().err.startswith("app.py: the engine failed (it is gone)")
