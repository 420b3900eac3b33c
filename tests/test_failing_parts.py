"""When a part fails, those who are concerned are told, and the rest goes on."""

import asyncio
import gc
import itertools
import json
import queue
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import app
from backend.audio import Samples
from backend.cli import EXIT_ENGINE_FAILED
from backend.config import CHUNK_SAMPLES, EngineConfig, SessionSettings
from backend.conversation.conversation import Conversation
from backend.engine import Engine
from backend.engine.core import EngineCore
from backend.engine.model_runner import Step, StepOutcome
from backend.engine.watchdog import LOOKS, watch
from backend.errors import EngineFailedError, VoiceUnavailableError
from backend.events import SessionFailed
from backend.model.checkpoint import Checkpoint
from backend.serving import process
from backend.serving.process import Heap, ServingOptions, serve
from backend.serving.server import create_app
from backend.serving.surroundings import listen_on
from backend.speech import Speaker, SpeechEvent, SpokenPiece, Voices, espeak, voices
from backend.wires import connection
from tests.scripted import BREAK, ScriptedEngine, ScriptedReply
from tests.scripted_voices import Cast
from tests.sockets import House, Visitor, house, settle

WAIT_SECONDS = 60.0
QUIET = np.zeros(CHUNK_SAMPLES, np.float32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# The engine


class HangingEngine(Engine):
    """From `hang` on no step comes back, as where a driver waits for a broken device."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.hangs = threading.Event()
        self.may_go_on = threading.Event()
        super().__init__(checkpoint, EngineConfig(num_slots=2, least_patience_seconds=0.2))

    # Before, a busy machine may take longer for a step than is waited for here.
    def _at_work(self) -> object | None:
        return super()._at_work() if self.hangs.is_set() else None

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


def lose_device(engine: Engine) -> None:
    """As after an illegal access: whatever a GPU is told to do from then on fails."""

    def fault(_: Step) -> StepOutcome:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine.core._runner.run = fault  # type: ignore[method-assign,assignment]
    engine.core._runner.is_usable = lambda: False  # type: ignore[method-assign]


REASONS = {
    "hangs": "a step did not come back",
    "breaks": "its thread broke: MemoryError",
    "loses its device": "the device that runs the model does not compute any more",
}


@pytest.mark.parametrize("fails", REASONS)
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
            (break_thread if fails == "breaks" else lose_device)(engine)
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
        assert engine.failed.result(WAIT_SECONDS).startswith(REASONS[fails])
        # Leaving the block does not wait for the thread.
        engine.close()
        engine.may_go_on.set()


class Looks(threading.Event):
    """Lets a watchdog look so many times, without a wait."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.num_left = number

    def wait(self, timeout: float | None = None) -> bool:
        self.num_left -= 1
        return self.num_left < 0


@pytest.mark.parametrize(
    ("work", "num_looks", "hangs"),
    [
        (itertools.repeat(None), 1000, False),
        (itertools.repeat("one step"), LOOKS, False),
        (itertools.repeat("one step"), LOOKS + 1, True),
        (map(str, itertools.count()), 1000, False),
        (itertools.cycle(["one step"] * (LOOKS - 1) + [None]), 1000, False),
    ],
    ids=["rests", "is slow", "hangs", "works", "works and rests"],
)
def test_who_is_taken_to_hang(work: Iterator[str | None], num_looks: int, hangs: bool) -> None:
    told: list[str] = []
    watch(lambda: next(work), 30.0, Looks(num_looks), lambda: told.append("it hangs"))
    assert told == (["it hangs"] if hangs else [])


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
    monkeypatch.setattr(process, "FAREWELL_SECONDS", 1.0)
    listening = listen_on("127.0.0.1", 0)
    port = listening.getsockname()[1]
    with HangingEngine(golden_checkpoint) as engine, ThreadPoolExecutor(1) as pool:

        def open_app(_: object) -> tuple[Engine, FastAPI]:
            engine.warm_up()
            return engine, create_app(engine)

        serving: Future[None] = pool.submit(
            serve, open_app, listening, ServingOptions(), lambda: None
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
    monkeypatch.setattr("backend.cli.serve.serve", failing)
    monkeypatch.setattr("os._exit", codes.append)
    app.main([])
    assert codes == [EXIT_ENGINE_FAILED]
    assert capsys.readouterr().err.startswith("app.py: the engine failed (it is gone)")


# Voices


def said_by(events: list[SpeechEvent]) -> dict[str, str]:
    """The voice that began each sentence."""
    pieces = [event for event in events if isinstance(event, SpokenPiece)]
    return {p.sentence.strip(): p.voice_id for p in pieces if p.is_first_of_sentence}


async def spoken(cast: Cast, text: str, voice_id: str = "auto") -> dict[str, str]:
    speaker = Speaker(cast.voices, voice_id)
    speaker.say(text)
    speaker.finish()
    return said_by([event async for event in speaker])


async def test_a_sentence_that_cannot_be_said_costs_itself_alone() -> None:
    cast = Cast()
    cast.online.fails_after_blocks, cast.online.unspeakable = 0, {"Two."}
    for error in (VoiceUnavailableError("edge:en cannot say this"), ValueError("a bug")):
        cast.online.error = error
        for _ in range(3):
            assert await spoken(cast, "One. Two. Three.") == {
                "One.": "edge:en",
                "Two.": "espeak:en",
                "Three.": "edge:en",
            }


async def test_a_sentence_that_no_voice_can_say_leaves_the_others() -> None:
    cast = Cast()
    for voice in (cast.online, cast.offline):
        voice.error, voice.fails_after_blocks = VoiceUnavailableError("cannot"), 0
        voice.unspeakable = {"Two."}
    speaker = Speaker(cast.voices, "auto")
    speaker.say("One. Two. Three.")
    speaker.finish()
    events: list[SpeechEvent] = []

    async def listen() -> None:
        async for event in speaker:
            events.append(event)

    with pytest.raises(VoiceUnavailableError, match="cannot"):
        await listen()
    assert said_by(events) == {"One.": "edge:en", "Three.": "edge:en"}


async def test_a_voice_that_hangs_is_left_alone_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(voices, "FIRST_SOUND_SECONDS", 0.05)
    cast = Cast()
    cast.online.may_speak.clear()
    # One sentence, however often, is no reason yet.
    for _ in range(3):
        assert await spoken(cast, "One.") == {"One.": "espeak:en"}
    assert cast.voices.failure_of(cast.online) is None
    await spoken(cast, "Two.")
    assert "does not answer in time" in (cast.voices.failure_of(cast.online) or "")
    num_asked = len(cast.online.said)
    assert await spoken(cast, "Three.") == {"Three.": "espeak:en"}
    assert len(cast.online.said) == num_asked
    assert await spoken(cast, "Four.", "edge:zh") == {"Four.": "edge:zh"}
    cast.online.may_speak.set()
    cast.seconds = voices.REST_SECONDS + 1
    assert await spoken(cast, "Five.") == {"Five.": "edge:en"}


async def test_who_interrupts_a_silent_voice_has_waited_too() -> None:
    """Replies that are cut off before the deadline, one after another, are not silent for ever."""
    cast = Cast()
    cast.online.may_speak.clear()
    for text in ("One.", "Two."):
        speaking = asyncio.create_task(spoken(cast, text))
        await settle()
        assert cast.online.is_speaking
        cast.seconds += 2 * voices.INTERRUPTED_SECONDS
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
    assert await spoken(cast, "Three.") == {"Three.": "espeak:en"}


async def test_a_library_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, may_go_on = threading.Event(), threading.Event()
    speak = espeak._Library.speak

    def hang(library: espeak._Library, *rest: Any) -> Samples:
        hangs.set()
        may_go_on.wait(WAIT_SECONDS)
        return speak(library, *rest)

    monkeypatch.setattr(espeak._Library, "speak", hang)
    spoken_by = Voices(online=[])
    waiting = asyncio.create_task(spoken_by.read_aloud("Hello."))
    await asyncio.to_thread(hangs.wait, WAIT_SECONDS)
    monkeypatch.setattr(espeak, "LONGEST_SENTENCE_SECONDS", 0.0)
    with pytest.raises(VoiceUnavailableError, match="espeak-ng hangs"):
        await spoken_by.read_aloud("Hello again.")
    may_go_on.set()
    assert len(await waiting) > 0
    await asyncio.to_thread(wait_for, lambda: espeak._speaking_thread()._began_at is None)
    assert len(await spoken_by.read_aloud("Hello once more.")) > 0


def typed(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def test_text_that_takes_long_to_read_keeps_nothing_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(voices, "OFFLINE_FIRST_SOUND_SECONDS", WAIT_SECONDS)
    cast = Cast()
    cast.offline.may_speak.clear()
    async with house(ScriptedEngine([ScriptedReply("Yes.")])) as opened:
        opened._voices = cast.voices
        visitor = opened.visit()
        visitor.send("conversation.item.create", item=typed("Hello?"))
        visitor.send("response.create", response={"metadata": {"asked": "yes"}})
        visitor.append(np.zeros(2 * CHUNK_SAMPLES, np.float32))
        visitor.send("session.heartbeat")
        async with asyncio.timeout(WAIT_SECONDS):
            while not {"session.heartbeat_ack", "response.listen"} <= set(visitor.types):
                await settle()
        assert "conversation.item.added" not in visitor.types
        cast.offline.may_speak.set()
        done = await visitor.until("response.done")
        assert done["response"]["metadata"]["asked"] == "yes"
        assert visitor.types.index("conversation.item.added") < visitor.types.index(
            "response.created"
        )


async def test_text_that_cannot_be_read_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cast = Cast()
    cast.offline.fails_after_blocks, cast.offline.error = 0, RuntimeError("a bug of the library's")
    async with house(ScriptedEngine([ScriptedReply("Yes.")])) as opened:
        opened._voices = cast.voices
        visitor = opened.visit()
        visitor.send("conversation.item.create", item=typed("Hello?"), event_id="mine")
        error = (await visitor.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("voice_unavailable", "mine")
        cast.offline.fails_after_blocks = None
        # Hung for good: it is told, later.
        cast.offline.may_speak.clear()
        monkeypatch.setattr(voices, "OFFLINE_FIRST_SOUND_SECONDS", 0.05)
        visitor.send("conversation.item.create", item=typed("Hello?"))
        assert await visitor.error_code() == "voice_unavailable"
        visitor.append(np.zeros(CHUNK_SAMPLES, np.float32))
        await visitor.until("response.listen")
    assert "a bug of the library's" in caplog.text


# Memory


@pytest.fixture
def without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def converse(opened: House) -> tuple[Visitor, "weakref.ref[Conversation]"]:
    """A reply is spoken, and a message refused."""
    visitor = opened.visit()
    visitor.send("session.update", session={"type": "realtime", "output_modalities": ["audio"]})
    visitor.send("conversation.item.create", item=typed("Hello?"))
    visitor.send("response.create")
    await visitor.until("response.done")
    visitor.send("nonsense")
    await visitor.error_code()
    (kept,) = opened.conversations._kept.values()
    return visitor, weakref.ref(kept.holder.conversation)


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("ending", ["closed", "left", "dropped", "idle", "failed"])
async def test_a_conversation_that_has_ended_is_free_at_once(ending: str) -> None:
    """Nothing holds itself in a circle, for which a collection would be needed."""
    engine = ScriptedEngine([ScriptedReply("Yes."), ScriptedReply(BREAK)])
    async with house(engine, idle_seconds=300 if ending == "idle" else 0) as opened:
        opened._voices = Cast().voices
        visitor, conversation = await converse(opened)
        match ending:
            case "closed":
                visitor.send("session.close")
                await visitor.closed()
            case "left":
                await visitor.leave()
            case "dropped":
                await visitor.drop()
                await opened.time.pass_by(100)
            case "idle":
                async with opened.time.running():
                    await visitor.closed()
            case "failed":
                visitor.send("response.create")
                await visitor.closed()
        opened.forget(visitor)
        serving = weakref.ref(visitor.serving)
        del visitor
        await settle()
        assert (conversation(), serving()) == (None, None)


def test_the_heap_is_trimmed_after_conversations_have_ended() -> None:
    trimmed: queue.SimpleQueue[str] = queue.SimpleQueue()
    heap = Heap(lambda: trimmed.put(threading.current_thread().name), pause_seconds=0.05)
    for _ in range(3):
        heap.conversation_ended()
    assert trimmed.get(timeout=WAIT_SECONDS) == "heap"
    heap.conversation_ended()
    assert trimmed.get(timeout=WAIT_SECONDS) == "heap"


@pytest.mark.usefixtures("without_collections")
def test_the_engine_holds_no_conversation_that_was_closed(golden_checkpoint: Checkpoint) -> None:
    core = EngineCore(golden_checkpoint, EngineConfig(num_slots=1))
    session = core.open(SessionSettings())
    core.hear(session, QUIET)
    while core.has_work():
        list(core.step())
    core.close(session)
    heard = weakref.ref(session.context[-1].features)
    del session
    assert heard() is None
