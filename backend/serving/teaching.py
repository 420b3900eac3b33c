"""Teach me: visitors give takes of something new, and a process of its own learns them.

One set of takes, one job and one choice of weights, the server's. The job is
`backend.training.teach`, which prints how far it is; what it makes is a checkpoint in a folder.
"""

import asyncio
import json
import logging
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import soundfile
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from backend.audio import Samples, stream_audio
from backend.config import SAMPLE_RATE_HZ
from backend.engine import Engine
from backend.errors import AudioInputError, AudioInteractionError, RecordingError, SettingsError
from backend.model.checkpoint import load_checkpoint
from backend.protocol import Emotion
from backend.serving.access import Doorkeeper
from backend.serving.answers import PRIVATE, body_of

logger = logging.getLogger(__name__)

JOB = "backend.training.teach"
SILENCE = "<no need to response>"
MANIFEST = "takes.jsonl"
COMPARISON = "comparison.json"
MAX_TAKES = 40
MAX_TAKE_BYTES = 4_000_000
MAX_TAKE_SECONDS = 8
MAX_REPLY_CHARACTERS = 200
SILENT_PEAK = 0.003
CHANGED = "the model was taught something new or went back: begin again"
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class KeptTake:
    """A take, as its line in the folder says."""

    audio_path: str
    assistant: str
    emotion: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """How a job goes."""

    share: float = 0.0
    """Of all there is to do."""
    error: str | None = None
    is_running: bool = True


class UseWanted(BaseModel):
    """Which weights are to be in use."""

    model_config = ConfigDict(extra="forbid")

    taught: bool


class Teaching:
    """Takes, the job that learns them, and the weights that are in use. Of one event loop.

    Args:
        folder: where takes and what is learnt of them are kept.
        engine: goes on with the weights that are chosen.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._takes_folder = folder / "takes"
        self._taught_folder = folder / "taught"
        self._engine = engine
        self._original = engine.checkpoint
        self._takes = self._read()
        self._used: Path | None = None
        """What the engine goes on with; None: what it had before."""
        self._job: Job | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None
        self.changing = asyncio.Lock()
        """Held by what changes the takes or the weights."""

    # Takes

    def _read(self) -> list[KeptTake]:
        """The takes of an earlier server."""
        try:
            lines = (self._takes_folder / MANIFEST).read_text(encoding="utf-8").splitlines()
            return [KeptTake(**json.loads(line)["conversation"][0]) for line in lines]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, LookupError, TypeError) as error:
            logger.warning("the takes of an earlier server cannot be read: %s", error)
            return []

    def _write(self, takes: list[KeptTake]) -> None:
        path = self._takes_folder / MANIFEST
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        lines = [json.dumps({"conversation": [asdict(t)]}, ensure_ascii=False) for t in takes]
        partial.write_text("\n".join([*lines, ""]), encoding="utf-8")
        partial.replace(path)
        self._takes = takes

    def add(self, content: bytes, reply: str, emotion: Emotion) -> None:
        """Keep a take.

        Args:
            content: a recording of any kind.
            reply: what is right to answer; empty for silence.
            emotion: of the reply.

        Raises:
            SettingsError: it is silent, broken or one too many, or the others are being learnt.
        """
        self._require_idle()
        if len(self._takes) >= MAX_TAKES:
            raise SettingsError(f"{MAX_TAKES} takes are kept: forget some of them first")
        self._takes_folder.mkdir(parents=True, exist_ok=True)
        name = f"{uuid4().hex[:12]}.wav"
        received = self._takes_folder / f"{name}.part"
        try:
            received.write_bytes(content)
            samples = _sound_of(received)
            soundfile.write(self._takes_folder / name, samples, SAMPLE_RATE_HZ, "PCM_16")
        finally:
            received.unlink(missing_ok=True)
        seconds = round(len(samples) / SAMPLE_RATE_HZ, 2)
        self._write([*self._takes, KeptTake(name, reply or SILENCE, emotion, seconds)])

    def forget(self, name: str) -> None:
        """Throw a take away.

        Raises:
            RecordingError: there is none of this name.
            SettingsError: it is being learnt.
        """
        self._require_idle()
        left = [take for take in self._takes if take.audio_path != name]
        if len(left) == len(self._takes):
            raise RecordingError("there is no such take", "not_found")
        self._write(left)
        (self._takes_folder / name).unlink(missing_ok=True)

    # The job

    @property
    def _output(self) -> Path:
        """Where these takes' checkpoint is: with others it is another one."""
        named = json.dumps([str(self._original.folder), *map(asdict, self._takes)])
        return self._taught_folder / sha256(named.encode()).hexdigest()[:16]

    def _require_idle(self) -> None:
        if self._job is not None and self._job.is_running:
            raise SettingsError("it is learning: wait until it has, or stop it")

    async def begin(self) -> None:
        """Begin to learn the takes, or go on where that was stopped.

        Raises:
            SettingsError: it goes on already, or the model has no files that could be taught.
        """
        self._require_idle()
        if self._original.folder is None:
            raise SettingsError("this model was not loaded from files, and cannot be taught")
        self._job = Job()
        await asyncio.to_thread(self._forget_others)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            JOB,
            str(self._original.folder),
            str(self._takes_folder),
            str(self._output),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=_REPOSITORY,
        )
        self._following = asyncio.create_task(self._follow(self._process))

    def _forget_others(self) -> None:
        """What was learnt of other takes goes, unless it is in use: a checkpoint has megabytes."""
        for folder in self._taught_folder.glob("*"):
            if folder not in (self._output, self._used):
                shutil.rmtree(folder, ignore_errors=True)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        job, error = Job(), None
        async for line in process.stdout:
            told = json.loads(line)
            error = told.get("error", error)
            self._job = job = Job(told.get("share", job.share))
        if await process.wait() != 0 and error is None:
            logger.warning("the teaching job ended: %s", (await complaints).decode()[-2000:])
            error = "the job broke off: what it has done is kept, and it goes on from there"
        await complaints
        self._job = Job(job.share if error else 1.0, error, is_running=False)

    async def stop(self) -> None:
        """Stop the job, if one goes on; what it has done is kept."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        if self._following is not None:
            await self._following

    # The weights

    async def use(self, *, taught: bool) -> None:
        """Go on with what was taught, or with what there was before; conversations end.

        Raises:
            SettingsError: nothing was taught yet.
        """
        async with self.changing:
            await asyncio.to_thread(self._use, taught)

    def _use(self, taught: bool) -> None:
        if not taught:
            if self._used is not None:
                self._engine.change_model(self._original, CHANGED)
                self._used = None
            return
        if not (self._output / COMPARISON).exists():
            raise SettingsError("these takes have not been learnt yet")
        original = self._original
        dtype = str(original.dtype).removeprefix("torch.")
        checkpoint = load_checkpoint(
            str(self._output), device=str(original.device), dtype=dtype, bits=original.bits
        )
        named = replace(checkpoint, name=f"{original.name}+taught")
        self._engine.change_model(named, CHANGED)
        self._used = self._output

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "takes": [asdict(take) for take in self._takes],
            "job": None if self._job is None else asdict(self._job),
            "is_learnt": (self._output / COMPARISON).exists(),
            "is_in_use": self._used is not None,
            "is_newest_in_use": self._used == self._output,
        }

    def comparison(self) -> bytes:
        """What is answered before and after, as JSON.

        Raises:
            RecordingError: these takes have not been learnt yet.
        """
        try:
            return (self._output / COMPARISON).read_bytes()
        except FileNotFoundError as error:
            raise RecordingError("these takes have not been learnt yet", "not_found") from error


def _sound_of(path: Path) -> Samples:
    """What a take holds.

    Raises:
        SettingsError: nothing, or too much.
    """
    blocks, num_samples = list[Samples](), 0
    try:
        for block in stream_audio(path):
            blocks.append(block)
            num_samples += len(block)
            if num_samples > MAX_TAKE_SECONDS * SAMPLE_RATE_HZ:
                raise SettingsError(f"a take lasts {MAX_TAKE_SECONDS} s at most")
    except AudioInputError as error:
        reason = str(error).removeprefix(f"{path} ")
        raise SettingsError(f"this recording cannot be used: it {reason}") from error
    samples = np.concatenate(blocks)
    if float(np.abs(samples).max(initial=0.0)) < SILENT_PEAK:
        raise SettingsError("this take is silent: is the microphone on?")
    return samples


def teaching_routes(doorkeeper: Doorkeeper, teaching: Teaching) -> APIRouter:
    """The routes.

    Args:
        doorkeeper: who may come in.
        teaching: what they are of.
    """
    routes = APIRouter(prefix="/v1/teaching", dependencies=[Depends(doorkeeper.with_key)])

    @routes.get("")
    async def state() -> Response:
        return JSONResponse(await asyncio.to_thread(teaching.state), headers=PRIVATE)

    async def after(act: Callable[[], None]) -> Response:
        try:
            async with teaching.changing:
                await asyncio.to_thread(act)
        except OSError as error:
            reason = f"takes cannot be kept: {error.strerror}"
            raise RecordingError(reason, "recording_failed") from error
        return await state()

    @routes.post("/takes")
    async def add(request: Request, reply: str = "", emotion: Emotion = Emotion.NORMAL) -> Response:
        if len(reply) > MAX_REPLY_CHARACTERS:
            raise SettingsError(f"a reply has {MAX_REPLY_CHARACTERS} characters at most")
        content = b""
        async for block in request.stream():
            content += block
            if len(content) > MAX_TAKE_BYTES:
                raise RecordingError("a take lasts a few seconds", "upload_too_large")
        return await after(lambda: teaching.add(content, reply.strip(), emotion))

    @routes.delete("/takes/{name}")
    async def forget(name: str) -> Response:
        return await after(lambda: teaching.forget(name))

    @routes.post("/job")
    async def begin() -> Response:
        await teaching.begin()
        return await state()

    @routes.delete("/job")
    async def stop() -> Response:
        await teaching.stop()
        return await state()

    @routes.get("/comparison")
    async def comparison() -> Response:
        content = await asyncio.to_thread(teaching.comparison)
        return Response(content, media_type="application/json", headers=PRIVATE)

    @routes.post("/use")
    async def use(request: Request) -> Response:
        wanted = await body_of(request, UseWanted)
        try:
            await teaching.use(taught=wanted.taught)
        except AudioInteractionError as error:
            raise SettingsError(str(error)) from error
        return await state()

    return routes
