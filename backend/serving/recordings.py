"""Recordings over HTTP: read, take away, bring, share, delete. See docs/session-files.md."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from backend.errors import (
    AudioInteractionError,
    RecordingError,
)
from backend.recordings import ExportFormat
from backend.recordings.cache import Find, RecordingCache, Sending
from backend.recordings.forks import Forks
from backend.recordings.live import Recordings
from backend.recordings.records import Annotation
from backend.recordings.replay import ForkOptions
from backend.recordings.store import (
    PART_SUFFIX,
    PRIVATE_MODE,
    SUFFIX,
    Gallery,
    RecordingStore,
)
from backend.recordings.transcript import Fields
from backend.recordings.work import Artifact, Facts
from backend.recordings.workers import Workers
from backend.serving.access import Doorkeeper
from backend.serving.answers import PRIVATE, body_of, error_fields
from backend.serving.downloads import FileAnswer, as_download
from backend.serving.proxies import address_of

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 200_000_000

Answer = TypeVar("Answer")

_MEDIA_TYPES = {
    ExportFormat.HTML: "text/html; charset=utf-8",
    ExportFormat.VTT: "text/vtt; charset=utf-8",
    ExportFormat.SRT: "application/x-subrip; charset=utf-8",
    ExportFormat.MARKDOWN: "text/markdown; charset=utf-8",
    ExportFormat.JSON: "application/json",
    ExportFormat.CSV: "text/csv; charset=utf-8",
    ExportFormat.WAV: "audio/wav",
}


class ShareWanted(BaseModel):
    """A link to a recording, for so long."""

    model_config = ConfigDict(extra="forbid")

    hours: float = Field(allow_inf_nan=False)


class ForkWanted(BaseModel):
    """Another way from a chunk on; what is absent stays as it was."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    from_chunk: int
    system_prompt: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    decision_bias: float | None = None
    seed: int | None = None
    also: bool = False
    """Whether the server's other checkpoint is to hear it."""

    def options(self) -> ForkOptions:
        """The same for who takes it."""
        return ForkOptions(**self.model_dump(exclude={"also"}))


class RecordingsApi:
    """The routes.

    Args:
        doorkeeper: who may come in.
        gallery: what every client may read, without a key.
        recordings: what is recorded here; None where nothing is.
        forks: takes recordings another way.
        workers: go through them, and make something of them.
    """

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        gallery: Gallery,
        recordings: Recordings | None,
        forks: Forks,
        workers: Workers,
    ) -> None:
        self._doorkeeper = doorkeeper
        self._gallery = gallery
        self._recordings = recordings
        self._forks = forks
        self._cache = RecordingCache(workers)
        self._tidying: asyncio.Task[None] | None = None

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        owners = APIRouter(prefix="/v1", dependencies=[Depends(self._doorkeeper.with_key)])
        public = APIRouter(prefix="/v1", dependencies=[Depends(self._doorkeeper.without_key)])
        owners.add_api_route("/recordings", self._upload, methods=["POST"], status_code=201)
        owners.add_api_route("/recordings/{source}", self._summary, methods=["GET"])
        owners.add_api_route(
            "/recordings/{source}", self._delete, methods=["DELETE"], status_code=204
        )
        owners.add_api_route("/recordings/{source}/annotations", self._annotate, methods=["PUT"])
        owners.add_api_route(
            "/recordings/{source}/shares", self._share, methods=["POST"], status_code=201
        )
        owners.add_api_route(
            "/recordings/{source}/shares/{share_id}",
            self._end_share,
            methods=["DELETE"],
            status_code=204,
        )
        self._add_readers(owners, "/recordings", self._find_recording)
        # Also of what every client may read: it takes a processor's time.
        self._add_forks(owners, "/gallery", self._gallery.find)
        self._add_forks(owners, "/recordings", self._find_recording)
        public.add_api_route("/gallery", self._list_gallery, methods=["GET"])
        for prefix, find in (("/shared", self._find_shared), ("/gallery", self._gallery.find)):
            public.add_api_route(f"{prefix}/{{source}}", self._summary_of(find), methods=["GET"])
            self._add_readers(public, prefix, find)
        app.include_router(owners)
        app.include_router(public)

    async def begin(self) -> None:
        """The server begins: its folder of recordings is looked after."""
        if self._recordings is not None:
            tidying = self._cache.keep_tidy(self._recordings.store)
            self._tidying = asyncio.create_task(tidying)

    async def end(self) -> None:
        """The server ends: nothing that was made is kept."""
        if self._tidying is not None:
            self._tidying.cancel()
        await self._cache.end()

    def _add_readers(self, router: APIRouter, prefix: str, find: Callable[[str], Path]) -> None:
        async def transcript(source: str, request: Request) -> Response:
            sending = await self._open(request, lambda: find(source), Artifact.TRANSCRIPT)
            return FileAnswer(self._cache, sending, "application/json", {})

        async def sound(source: str, request: Request) -> Response:
            sending = await self._open(request, lambda: find(source), Artifact.SOUND)
            asked = request.headers.get("range")
            return FileAnswer(self._cache, sending, "audio/mpeg", {"Accept-Ranges": "bytes"}, asked)

        async def file(source: str, request: Request, time_zone: str = "") -> Response:
            sending = await self._open(request, lambda: find(source), Artifact.WHOLE)
            named = as_download(sending.facts.summary, SUFFIX, time_zone)
            return FileAnswer(self._cache, sending, "application/zip", named)

        async def exported(
            source: str, wanted: str, request: Request, time_zone: str = ""
        ) -> Response:
            if wanted not in list(ExportFormat):
                raise RecordingError(
                    f"a recording is exported to {', '.join(ExportFormat)}, not to that",
                    "invalid_value",
                )
            into = ExportFormat(wanted)
            sending = await self._open(request, lambda: find(source), into)
            named = as_download(sending.facts.summary, into.suffix, time_zone)
            return FileAnswer(self._cache, sending, _MEDIA_TYPES[into], named)

        router.add_api_route(f"{prefix}/{{source}}/story", transcript, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/sound", sound, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/file", file, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/export/{{wanted}}", exported, methods=["GET"])

    def _add_forks(self, router: APIRouter, prefix: str, find: Callable[[str], Path]) -> None:
        async def fork(source: str, request: Request) -> Response:
            wanted = await body_of(request, ForkWanted)
            # What is wrong with it is said before the first line.
            facts = await self._facts(request, lambda: find(source))
            lines = self._forks.run(
                lambda: find(source), wanted.options(), facts.checked, with_also=wanted.also
            )
            first = await anext(lines)
            return StreamingResponse(
                _lines(first, lines), media_type="application/x-ndjson", headers=PRIVATE
            )

        router.add_api_route(f"{prefix}/{{source}}/forks", fork, methods=["POST"])

    # What there is

    @property
    def _store(self) -> RecordingStore:
        return self._required().store

    def _required(self) -> Recordings:
        if self._recordings is None:
            raise RecordingError("this server records nothing", "recording_off")
        return self._recordings

    def _find_recording(self, recording_id: str) -> Path:
        return self._store.find(recording_id)

    def _find_shared(self, share_id: str) -> Path:
        return self._store.find_shared(share_id)

    async def _list_gallery(self) -> Response:
        entries = await asyncio.to_thread(self._gallery.entries)
        return JSONResponse(entries, headers={"Cache-Control": "no-cache"})

    def _summary_of(self, find: Callable[[str], Path]) -> Callable[..., object]:
        async def summary(source: str, request: Request) -> Response:
            facts = await self._facts(request, lambda: find(source))
            path = await asyncio.to_thread(find, source)
            told = facts.summary | {"is_live": await asyncio.to_thread(self._is_live, path)}
            return JSONResponse(told, headers=PRIVATE)

        return summary

    def _is_live(self, path: Path) -> bool:
        recording_id = path.name.partition(".")[0]
        return self._recordings is not None and self._recordings.is_live(recording_id)

    async def _summary(self, source: str, request: Request) -> Response:
        store = self._store
        facts = await self._facts(request, lambda: store.find(source))
        shares = await asyncio.to_thread(store.shares_of, source)
        told = [
            {"share_id": share_id, "expires_at": share.expires_at.isoformat()}
            for share_id, share in shares.items()
        ]
        is_live = await asyncio.to_thread(self._required().is_live, source)
        return JSONResponse(facts.summary | {"is_live": is_live, "shares": told}, headers=PRIVATE)

    async def _facts(self, request: Request, find: Find) -> Facts:
        return await _while_wanted(request, self._cache.facts(find, address_of(request)))

    async def _open(self, request: Request, find: Find, wanted: Artifact | ExportFormat) -> Sending:
        return await _while_wanted(request, self._cache.open(find, wanted, address_of(request)))

    # What changes it

    async def _delete(self, source: str) -> None:
        await self._required().delete(source)
        self._cache.forget(source)

    async def _annotate(self, source: str, request: Request) -> Response:
        """One annotation, which takes the place of what was said of the same."""
        store = self._store
        new = await body_of(request, Annotation)
        facts = await self._facts(request, lambda: store.find(source))
        if not new.is_within(cast(int, facts.summary["num_replies"]), facts.checked.num_chunks):
            raise RecordingError("the recording has no such reply, or chunk", "invalid_value")
        said = await asyncio.to_thread(store.annotate, source, new, facts.checked)
        told = [annotation.model_dump() for annotation in said]
        return JSONResponse({"annotations": told}, headers=PRIVATE)

    async def _share(self, source: str, request: Request) -> Response:
        wanted = await body_of(request, ShareWanted)
        share_id, share = await asyncio.to_thread(self._store.share, source, wanted.hours)
        told = {"share_id": share_id, "expires_at": share.expires_at.isoformat()}
        return JSONResponse(told, status_code=201, headers=PRIVATE)

    async def _end_share(self, source: str, share_id: str) -> None:
        await asyncio.to_thread(self._store.end_share, source, share_id)

    async def _upload(self, request: Request) -> Response:
        store = self._store
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdigit() and int(stated) > MAX_UPLOAD_BYTES:
            raise _too_large()
        recording_id, path = await asyncio.to_thread(store.new_path)
        part = path.with_name(path.name + PART_SUFFIX)
        try:
            await self._receive(request, part)
            await self._facts(request, lambda: part)
            await asyncio.to_thread(part.rename, path)
        finally:
            # A disk that became read-only has told of that before.
            with suppress(OSError):
                await asyncio.to_thread(part.unlink, missing_ok=True)
            await asyncio.to_thread(store.count)
        told = {"recording_id": recording_id}
        return JSONResponse(told, status_code=201, headers=PRIVATE)

    async def _receive(self, request: Request, part: Path) -> None:
        num_bytes = 0
        store = self._store

        def write(file: BinaryIO, block: bytes) -> None:
            store.take_room(len(block))
            file.write(block)

        try:
            await asyncio.to_thread(part.touch, PRIVATE_MODE, exist_ok=False)
            file = await asyncio.to_thread(part.open, "wb")
            try:
                async for block in request.stream():
                    num_bytes += len(block)
                    if num_bytes > MAX_UPLOAD_BYTES:
                        raise _too_large()
                    await asyncio.to_thread(write, file, block)
            finally:
                await asyncio.to_thread(file.close)
        except ClientDisconnect as error:
            raise RecordingError("the file did not come whole", "invalid_recording") from error
        except OSError as error:
            reason = error.strerror or "it cannot be written"
            raise RecordingError(f"the file cannot be taken: {reason}", "recording_full") from error


async def _while_wanted(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """What `work` comes to, for as long as the client waits for it.

    Raises:
        ClientDisconnect: it has gone, and the work is stopped.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _lines(first: Fields, lines: AsyncGenerator[Fields, None]) -> AsyncGenerator[bytes, None]:
    """One JSON object a line; the last tells an error, where there was one."""
    async with aclosing(lines):
        yield _line(first)
        try:
            async for fields in lines:
                yield _line(fields)
        except AudioInteractionError as error:
            yield _line(error_fields(error)[0])


def _line(fields: Fields) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _too_large() -> RecordingError:
    return RecordingError(f"a file may have {MAX_UPLOAD_BYTES // 1_000_000} MB", "upload_too_large")
