"""Files heard and answered for programs: what Gradio's endpoints and MCP's tools do.

One file at a time, in a place of its own among the conversations; those who talk are heard first.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from gradio.data_classes import FileData

from backend.allowance import WaitingLine
from backend.audio import Samples
from backend.config import CHUNK_SECONDS, MAX_PROMPT_CHARACTERS, SAMPLE_RATE_HZ, SessionSettings
from backend.errors import AudioInteractionError, RecordingError, SettingsError
from backend.events import Decision, Event, SessionFailed, TurnDone, json_fields
from backend.recordings.work import Artifact, Order
from backend.recordings.workers import Stop, Workers
from backend.serving.figure import draw
from backend.serving.listeners import ListeningModel
from backend.serving.uploads import Uploads

logger = logging.getLogger(__name__)

MAX_MINUTES = 10
"""Of a file."""
MAX_SECONDS = 900.0
"""For one file, waiting for a place included."""
MAX_WAITING = 20
_MAX_BYTES = MAX_MINUTES * 60 * SAMPLE_RATE_HZ * np.dtype(np.float32).itemsize

Fields = dict[str, Any]
Answer = TypeVar("Answer")


class Endpoints:
    """What programs may ask for.

    Args:
        listener: hears files.
        workers: decode them.
        uploads: where clients put files, and find what was made of them.
    """

    def __init__(self, listener: ListeningModel, workers: Workers, uploads: Uploads) -> None:
        self._listener = listener
        self._workers = workers
        self._uploads = uploads
        self._line = WaitingLine(MAX_WAITING)

    async def listen(
        self, audio: FileData, decision_bias: float = 0.0, seed: int = 0
    ) -> tuple[list[dict[str, Any]], FileData, list[dict[str, Any]]]:
        """Hear a recording as the live page would, and say when the model speaks up, and what.

        Args:
            audio: any audio or video file, of 10 minutes and 25 MB at most.
            decision_bias: -8 to 8; above 0 the model is eager to speak, below 0 shy.
            seed: of the draw, where the checkpoint draws.

        Returns:
            Every event in order, a picture (PNG), and the replies alone.
        """
        settings = _settings(decision_bias, seed)
        async with self._samples(audio) as samples:
            events = await self._listener.listen(samples, settings)
            for event in events:
                if isinstance(event, SessionFailed):
                    raise RecordingError(event.message, "recording_failed")
            png = await asyncio.to_thread(draw, samples, events)
        name = await self._uploads.add(png, ".png")
        figure = FileData(path=name, orig_name="heard.png", mime_type="image/png", size=len(png))
        replies = [_reply(event) for event in events if isinstance(event, TurnDone)]
        return _told(events), figure, replies

    async def answer(self, audio: FileData, text: str = "") -> dict[str, Any]:
        """Answer one clip that is heard as a whole, as the model's offline sequence does.

        Args:
            audio: an audio or video file of at most 20 s.
            text: what is asked about it; nothing where the clip itself asks.

        Returns:
            The answer's text and emotion.
        """
        if not isinstance(text, str) or len(text) > MAX_PROMPT_CHARACTERS:
            raise RecordingError("text is a question of moderate length", "invalid_value")
        async with self._samples(audio) as samples:
            *_, done = await self._listener.answer(samples, SessionSettings(), text or None)
        assert isinstance(done, TurnDone), "an answer ends"
        return {"text": done.text, "emotion": done.emotion}

    @asynccontextmanager
    async def _samples(self, audio: object) -> AsyncIterator[Samples]:
        """A file's samples at 16 kHz, in its turn.

        Raises:
            RecordingError: there is no such file, it cannot be used, or too much is asked for.
        """
        path = self._uploads.find(audio.get("path") if isinstance(audio, dict) else audio)
        if self._line.is_full:
            raise RecordingError("too many files wait: try again later", "too_many_waiting")
        try:
            async with asyncio.timeout(MAX_SECONDS), self._line.turn():
                yield await self._decoded(path)
        except TimeoutError as error:
            raise RecordingError(
                f"this file was not heard within {MAX_SECONDS / 60:g} minutes", "too_many_waiting"
            ) from error
        except RecordingError:
            raise
        except AudioInteractionError as error:
            raise RecordingError(str(error), "invalid_value") from error

    async def _decoded(self, path: Path) -> Samples:
        stop = Stop()

        def decode() -> Samples:
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "samples"
                order = Order(
                    path=path, wanted=Artifact.SAMPLES, output=output, max_bytes=_MAX_BYTES
                )
                self._workers.carry_out(order, stop)
                return np.fromfile(output, np.float32)

        try:
            return await asyncio.to_thread(decode)
        finally:
            stop.set()


def for_gradio(
    endpoint: Callable[..., Awaitable[Answer]],
) -> Callable[..., Awaitable[Answer]]:
    """An endpoint whose errors Gradio tells its clients as they are, without a traceback."""

    @wraps(endpoint)
    async def run(*args: Any, **named: Any) -> Answer:
        try:
            return await endpoint(*args, **named)
        except RecordingError as error:
            raise gr.Error(error.message, print_exception=False) from error
        except Exception as error:
            logger.exception("an endpoint failed")
            raise gr.Error(
                "the server failed on this: its log says why", print_exception=False
            ) from error

    return run


def _settings(decision_bias: object, seed: object) -> SessionSettings:
    if not isinstance(decision_bias, int | float) or not isinstance(seed, int):
        raise RecordingError("decision_bias is a number, and seed a whole one", "invalid_value")
    try:
        return SessionSettings(decision_bias=float(decision_bias), seed=seed)
    except SettingsError as error:
        raise RecordingError(str(error), "invalid_value") from error


def _reply(done: TurnDone) -> Fields:
    seconds = round((done.chunk + 1) * CHUNK_SECONDS, 3)
    return {"seconds": seconds, "emotion": done.emotion, "text": done.text}


def _told(events: list[Event]) -> list[Fields]:
    seconds = 0.0
    told = []
    for event in events:
        if isinstance(event, Decision):
            seconds = round((event.chunk + 1) * CHUNK_SECONDS, 3)
        if (fields := json_fields(event, seconds)) is not None:
            told.append(fields)
    return told
