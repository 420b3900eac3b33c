"""Models that hear files: the one that serves the page, or the released one on a GPU that is lent.

ZeroGPU Spaces lend a GPU for single calls, and a conversation is none: there the page goes on with
the embedded checkpoint on the CPU. https://huggingface.co/docs/hub/spaces-zerogpu
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol

from backend.admission import Admission
from backend.audio import Intake, Samples
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.engine.offline import AnswerEvent, OfflineAnswerer
from backend.errors import RecordingError
from backend.events import Event
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.device import own_stream

LOADING_SECONDS = 60
"""Of a call's time on the GPU, for the weights."""
SECONDS_PER_CHUNK = 0.05
MAX_CALL_SECONDS = 120


class ListeningModel(Protocol):
    """A model that hears what is there already."""

    async def listen(self, samples: Samples, settings: SessionSettings) -> list[Event]:
        """All that happens as it is heard, until everything is said."""

    async def answer(
        self, samples: Samples, settings: SessionSettings, text: str | None
    ) -> list[AnswerEvent]:
        """The answer to a clip that is heard first."""


class EngineListener:
    """The model that serves the page.

    Args:
        engine: runs it.
        admission: who has a place, as a file wants one too.
    """

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answer")

    async def listen(self, samples: Samples, settings: SessionSettings) -> list[Event]:
        """See `ListeningModel`."""
        async with self._place():
            return await _heard(self._engine, samples, settings)

    async def answer(
        self, samples: Samples, settings: SessionSettings, text: str | None
    ) -> list[AnswerEvent]:
        """See `ListeningModel`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, _answered, self._engine.checkpoint, samples, settings, text
        )

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        place = self._admission.enter()
        if place is None:
            waiter = self._admission.queue_up()
            if waiter is None:
                raise RecordingError(
                    "too many wait for theirs: try again later", "too_many_waiting"
                )
            try:
                async for _ in self._admission.standings(waiter):
                    pass
            except BaseException:
                self._admission.step_out(waiter)
                raise
            place = waiter.place
        assert place is not None, "who has waited has a place"
        try:
            yield
        finally:
            self._admission.leave(place)


async def _heard(engine: Engine, samples: Samples, settings: SessionSettings) -> list[Event]:
    session = await engine.open_session(settings)
    try:
        async with aclosing(session.follow(Intake().chunks([samples]))) as events:
            return [event async for event in events]
    finally:
        await session.close()


def _answered(
    checkpoint: Checkpoint, samples: Samples, settings: SessionSettings, text: str | None
) -> list[AnswerEvent]:
    with own_stream(checkpoint.device):
        return list(OfflineAnswerer(checkpoint).answer(samples, settings, text))


def duration(samples: Samples, *_: object) -> int:
    """How long a call may take, in seconds: what is asked for is taken off a visitor's share."""
    chunks = len(samples) / SAMPLE_RATE_HZ / CHUNK_SECONDS
    return min(MAX_CALL_SECONDS, LOADING_SECONDS + round(chunks * SECONDS_PER_CHUNK))


class ZeroGpuListener:
    """The released model, on a GPU that is lent for each call.

    Args:
        spaces: the package of that name, imported before torch.
        source: of the checkpoint; downloaded before, so that no GPU waits for it.
        port: of the server.
        device: which one the GPU is for torch.
    """

    def __init__(self, spaces: ModuleType, source: str, port: int, device: str = "cuda") -> None:
        self._spaces = spaces
        self._port = port
        # In a process that is forked for the call and may be used again for the next.
        loaded = cache(lambda: load_checkpoint(source, device=device))

        def listen(samples: Samples, settings: SessionSettings) -> list[Event]:
            with Engine(loaded(), EngineConfig(num_slots=1)) as engine:
                return asyncio.run(_heard(engine, samples, settings))

        def answer(
            samples: Samples, settings: SessionSettings, text: str | None
        ) -> list[AnswerEvent]:
            return _answered(loaded(), samples, settings, text)

        self._listen: Callable[..., list[Event]] = spaces.GPU(listen, duration=duration)
        self._answer: Callable[..., list[AnswerEvent]] = spaces.GPU(answer, duration=duration)

    def start(self, page: Any) -> None:
        """Tell the Space that we are there, as Gradio's `launch` would, which is not called here.

        Args:
            page: Gradio's.
        """
        # What is forked closes connections of this port: they would stay open with it.
        page.server = SimpleNamespace(config=SimpleNamespace(port=self._port))
        import_module(f"{self._spaces.__name__}.zero").startup()

    async def listen(self, samples: Samples, settings: SessionSettings) -> list[Event]:
        """See `ListeningModel`."""
        # With its context, the thread has the request that Gradio answers, whose share it is.
        return await asyncio.to_thread(self._listen, samples, settings)

    async def answer(
        self, samples: Samples, settings: SessionSettings, text: str | None
    ) -> list[AnswerEvent]:
        """See `ListeningModel`."""
        return await asyncio.to_thread(self._answer, samples, settings, text)
