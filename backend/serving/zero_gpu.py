"""ZeroGPU Spaces lend a GPU for single calls: files are heard by the released model on it.

The page goes on with the embedded checkpoint on the CPU, as a conversation is no single call.
https://huggingface.co/docs/hub/spaces-zerogpu
"""

import asyncio
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from backend.audio import Intake, Samples
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ, EngineConfig, SessionSettings
from backend.engine import Engine
from backend.engine.feeding import follow
from backend.engine.offline import AnswerEvent, OfflineAnswerer
from backend.events import Event
from backend.model.checkpoint import Checkpoint, load_checkpoint

LOADING_SECONDS = 60
"""Of a call's time on the GPU, for the weights."""
SECONDS_PER_CHUNK = 0.05
MAX_CALL_SECONDS = 120


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
            return asyncio.run(_listen(loaded(), samples, settings))

        def answer(
            samples: Samples, settings: SessionSettings, text: str | None
        ) -> list[AnswerEvent]:
            return list(OfflineAnswerer(loaded()).answer(samples, settings, text))

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


async def _listen(
    checkpoint: Checkpoint, samples: Samples, settings: SessionSettings
) -> list[Event]:
    with Engine(checkpoint, EngineConfig(num_slots=1)) as engine:
        session = await engine.open_session(settings)
        return [event async for event in follow(session, Intake().chunks([samples]))]
