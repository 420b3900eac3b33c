"""Recordings over HTTP: read, take away, bring, share, delete. See docs/session-files.md."""

import asyncio
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from backend.errors import (
    AudioInteractionError,
    RecordingError,
    SessionFileError,
    SettingsError,
)
from backend.recordings.cache import Find, Made, RecordingCache, read
from backend.recordings.export import ExportFormat, export
from backend.recordings.forks import Forks
from backend.recordings.live import Recordings
from backend.recordings.packing import pack_copy
from backend.recordings.reader import SessionFile
from backend.recordings.replay import ForkOptions
from backend.recordings.store import (
    PART_SUFFIX,
    PRIVATE_MODE,
    SUFFIX,
    Gallery,
    RecordingStore,
    needing_room,
)
from backend.recordings.transcript import Fields
from backend.serving.access import Doorkeeper
from backend.wires.errors import ConnectionEnd

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 200_000_000
MAX_BODY_BYTES = 256 * 1024
NUM_READERS = 2
"""Recordings that are read, checked or exported at once."""
BLOCK_BYTES = 256 * 1024
UNREAD_SECONDS = 60.0
"""A download of which nothing is read for so long is given up."""

Answer = TypeVar("Answer")
Body = TypeVar("Body", bound=BaseModel)

_STATUS = {
    "invalid_value": 422,
    "invalid_recording": 422,
    "not_found": 404,
    "recording_not_found": 404,
    "share_not_found": 404,
    "recording_off": 403,
    "sharing_off": 403,
    "recording_full": 507,
    "recording_failed": 503,
    "forks_full": 503,
    "upload_too_large": 413,
    "other_checkpoint": 409,
    "origin_not_allowed": 403,
    "invalid_api_key": 401,
    "too_many_connections": 429,
}
_MEDIA_TYPES = {
    ExportFormat.HTML: "text/html; charset=utf-8",
    ExportFormat.VTT: "text/vtt; charset=utf-8",
    ExportFormat.SRT: "application/x-subrip; charset=utf-8",
    ExportFormat.MARKDOWN: "text/markdown; charset=utf-8",
    ExportFormat.WAV: "audio/wav",
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# No cache on the way keeps what was said, and no browser takes it for something else.
_PRIVATE = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}


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

    def options(self) -> ForkOptions:
        """The same for who takes it."""
        return ForkOptions(**self.model_dump())


class RecordingsApi:
    """The routes.

    Args:
        doorkeeper: who may come in.
        gallery: what every client may read, without a key.
        recordings: what is recorded here; None where nothing is.
        forks: takes recordings another way.
    """

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        gallery: Gallery,
        recordings: Recordings | None,
        forks: Forks,
    ) -> None:
        self._doorkeeper = doorkeeper
        self._gallery = gallery
        self._recordings = recordings
        self._forks = forks
        self._cache = RecordingCache()
        self._reading = asyncio.Semaphore(NUM_READERS)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes, and how errors are told."""
        owners = APIRouter(prefix="/v1", dependencies=[Depends(self._let_in)])
        public = APIRouter(prefix="/v1", dependencies=[Depends(self._let_in_without_key)])
        owners.add_api_route("/recordings", self._upload, methods=["POST"], status_code=201)
        owners.add_api_route("/recordings/{source}", self._summary, methods=["GET"])
        owners.add_api_route(
            "/recordings/{source}", self._delete, methods=["DELETE"], status_code=204
        )
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
        # The page, which is at every other address, would answer in its own way.
        app.add_api_route("/v1/{rest:path}", _tell_unknown, methods=_METHODS)
        for error in (AudioInteractionError, ConnectionEnd):
            app.add_exception_handler(error, _tell)

    def _add_readers(self, router: APIRouter, prefix: str, find: Callable[[str], Path]) -> None:
        async def transcript(source: str) -> Response:
            content = await self._read_once(lambda: find(source), self._cache.transcripts)
            return Response(content, media_type="application/json", headers=_PRIVATE)

        async def sound(source: str, request: Request) -> Response:
            content = await self._read_once(lambda: find(source), self._cache.sounds)
            return _part_of(content, "audio/mpeg", request.headers.get("range"))

        async def file(source: str) -> Response:
            return await self._read(lambda: find(source), _packed)

        async def exported(source: str, wanted: str) -> Response:
            if wanted not in list(ExportFormat):
                raise RecordingError(
                    f"a recording is exported to {', '.join(ExportFormat)}, not to that",
                    "invalid_value",
                )
            into = ExportFormat(wanted)
            return await self._read(lambda: find(source), lambda file: _exported(file, into))

        router.add_api_route(f"{prefix}/{{source}}/story", transcript, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/sound", sound, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/file", file, methods=["GET"])
        router.add_api_route(f"{prefix}/{{source}}/export/{{wanted}}", exported, methods=["GET"])

    def _add_forks(self, router: APIRouter, prefix: str, find: Callable[[str], Path]) -> None:
        async def fork(source: str, request: Request) -> Response:
            wanted = await _body(request, ForkWanted)
            # What is wrong with it is said before the first line.
            await asyncio.to_thread(find, source)
            lines = self._forks.run(lambda: find(source), wanted.options())
            first = await anext(lines)
            return StreamingResponse(
                _lines(first, lines), media_type="application/x-ndjson", headers=_PRIVATE
            )

        router.add_api_route(f"{prefix}/{{source}}/forks", fork, methods=["POST"])

    # Who may come in: on the event loop, as the doorkeeper keeps count for sockets too

    async def _let_in(self, request: Request) -> AsyncGenerator[None, None]:
        with self._doorkeeper.let_in(request):
            yield

    async def _let_in_without_key(self, request: Request) -> AsyncGenerator[None, None]:
        with self._doorkeeper.let_in(request, needs_key=False):
            yield

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

    def _summary_of(self, find: Callable[[str], Path]) -> Callable[[str], object]:
        async def summary(source: str) -> Response:
            fields = await self._summarize(lambda: find(source))
            path = await asyncio.to_thread(find, source)
            return JSONResponse(fields | {"is_live": self._is_live(path)}, headers=_PRIVATE)

        return summary

    async def _summarize(self, find: Find) -> Fields:
        return await self._read_once(find, self._cache.summaries)

    def _is_live(self, path: Path) -> bool:
        recording_id = path.name.partition(".")[0]
        return self._recordings is not None and self._recordings.is_live(recording_id)

    async def _summary(self, source: str) -> Response:
        store = self._store
        fields = await self._summarize(lambda: store.find(source))
        shares = await asyncio.to_thread(store.shares_of, source)
        told = [
            {"share_id": share_id, "expires_at": share.expires_at.isoformat()}
            for share_id, share in shares.items()
        ]
        is_live = self._required().is_live(source)
        return JSONResponse(fields | {"is_live": is_live, "shares": told}, headers=_PRIVATE)

    async def _read_once(self, find: Find, made: Made[Answer]) -> Answer:
        """What is kept of it, without waiting for others that are read; else it is made."""
        found = await asyncio.to_thread(lambda: made.find(find()))
        return await self._read(find, made.of) if found is None else found

    async def _read(self, find: Find, use: Callable[[SessionFile], Answer]) -> Answer:
        def in_room(file: SessionFile) -> Answer:
            with needing_room():
                return use(file)

        async with self._reading:
            return await asyncio.to_thread(read, find, in_room, self._cache.checked)

    # What changes it

    async def _delete(self, source: str) -> None:
        await self._required().delete(source)
        await asyncio.to_thread(self._cache.forget, source)

    async def _share(self, source: str, request: Request) -> Response:
        wanted = await _body(request, ShareWanted)
        share_id, share = await asyncio.to_thread(self._store.share, source, wanted.hours)
        told = {"share_id": share_id, "expires_at": share.expires_at.isoformat()}
        return JSONResponse(told, status_code=201, headers=_PRIVATE)

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
            async with self._reading:
                await asyncio.to_thread(_check, part)
            await asyncio.to_thread(part.rename, path)
        finally:
            # A disk that became read-only has told of that before.
            with suppress(OSError):
                await asyncio.to_thread(part.unlink, missing_ok=True)
            await asyncio.to_thread(store.count)
        told = {"recording_id": recording_id}
        return JSONResponse(told, status_code=201, headers=_PRIVATE)

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


async def _tell_unknown(rest: str) -> Response:
    raise RecordingError(f"nothing is at /v1/{rest[:100]}, or not by this method", "not_found")


def _check(path: Path) -> None:
    with SessionFile(path, "this file"):
        pass


class Download(StreamingResponse):
    """A file to take away, given up where it is not read.

    It is open from here on, as it may be deleted before all of it is sent: Starlette's FileResponse
    opens a file by its name, and late.

    Args:
        path: what is sent.
        name: what the browser calls it, without its suffix.
        suffix: of its name.
        media_type: what it is.
        folder: holds the file for this answer alone, and is removed after it.
    """

    def __init__(
        self, path: Path, name: str, suffix: str, media_type: str, folder: Path | None = None
    ) -> None:
        self._file = path.open("rb")
        self._folder = folder
        plain = name.encode("ascii", "ignore").decode().strip() or "recording"
        named = f"filename=\"{plain}{suffix}\"; filename*=utf-8''{quote(name + suffix)}"
        headers = {
            "Content-Length": str(os.fstat(self._file.fileno()).st_size),
            "Content-Disposition": f"attachment; {named}",
        }
        super().__init__(self._blocks(), headers=headers | _PRIVATE, media_type=media_type)

    async def _blocks(self) -> AsyncGenerator[bytes, None]:
        while block := await asyncio.to_thread(self._file.read, BLOCK_BYTES):
            yield block

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(UNREAD_SECONDS):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except* TimeoutError:
            logger.info("a download is given up: nothing of it was read for a while")
        finally:
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _packed(file: SessionFile) -> Download:
    """A recording's file, whole also where it goes on or was cut off."""
    name, suffix, media_type = _file_name(file), SUFFIX, "application/zip"
    if file.path.is_file():
        return Download(file.path, name, suffix, media_type)
    with _folder_for_answer() as folder:
        pack_copy(file, folder / "packed")
        return Download(folder / "packed", name, suffix, media_type, folder)


def _exported(file: SessionFile, wanted: ExportFormat) -> Download:
    with _folder_for_answer() as folder:
        export(file, wanted, folder / "exported")
        media_type = _MEDIA_TYPES[wanted]
        return Download(folder / "exported", _file_name(file), wanted.suffix, media_type, folder)


@contextmanager
def _folder_for_answer() -> Iterator[Path]:
    """A temporary folder, which is removed here only if no answer comes of it."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _file_name(file: SessionFile) -> str:
    """The title, as far as a file may be called so."""
    kept = "".join(c if c.isalnum() or c in " -_" else " " for c in file.manifest.title)
    return " ".join(kept.split())[:80] or f"recording {file.manifest.started_at:%Y-%m-%d %H.%M}"


def _part_of(content: bytes, media_type: str, asked: str | None) -> Response:
    """All of it, or the one range of bytes that is asked for."""
    size = len(content)
    headers = {"Accept-Ranges": "bytes"} | _PRIVATE
    if (part := _range(asked or "", size)) is None:
        return Response(content, media_type=media_type, headers=headers)
    if part.start >= part.stop:
        headers["Content-Range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return Response(
        content[part.start : part.stop], status_code=206, media_type=media_type, headers=headers
    )


def _range(asked: str, size: int) -> range | None:
    """The bytes of `bytes=first-last`, of `bytes=first-` and of `bytes=-number`; None of others."""
    unit, _, part = asked.partition("=")
    first, dash, last = part.strip().partition("-")
    numbers = [text for text in (first, last) if text]
    if unit.strip() != "bytes" or not dash or not numbers:
        return None
    if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in numbers):
        return None
    if not first:
        return range(max(0, size - int(last)), size)
    return range(int(first), min(size, int(last) + 1) if last else size)


async def _body(request: Request, model: type[Body]) -> Body:
    """What a request says.

    Raises:
        RecordingError: it is something else.
    """
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > MAX_BODY_BYTES:
            raise RecordingError(f"a request may have {MAX_BODY_BYTES // 1024} kB", "invalid_value")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecordingError(
            f"{place}: {first['msg']}" if place else first["msg"], "invalid_value"
        ) from error


async def _lines(first: Fields, lines: AsyncGenerator[Fields, None]) -> AsyncGenerator[bytes, None]:
    """One JSON object a line; the last tells an error, where there was one."""
    async with aclosing(lines):
        yield _line(first)
        try:
            async for fields in lines:
                yield _line(fields)
        except AudioInteractionError as error:
            yield _line(_error_fields(error)[0])


def _line(fields: Fields) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


async def _tell(request: Request, error: Exception) -> Response:
    """An error as clients see it."""
    fields, status = _error_fields(error)
    return JSONResponse(fields, status_code=status, headers=_PRIVATE)


def _error_fields(error: Exception) -> tuple[Fields, int]:
    """What is told of an error, and the status that goes with it."""
    match error:
        case RecordingError():
            message, code = error.message, error.code
        case SessionFileError():
            message, code = str(error), "invalid_recording"
        case SettingsError():
            message, code = str(error), "invalid_value"
        case ConnectionEnd():
            assert error.error is not None, "who is refused is told why"
            message, code = error.error.message, error.error.code
        case _:
            # Of the checkpoint or the engine: it may name places on the server.
            logger.warning("a recording cannot be used: %s", error)
            message, code = "the server cannot do this: its log says why", "recording_failed"
    return {"error": {"message": message, "code": code}}, _STATUS.get(code, 400)


def _too_large() -> RecordingError:
    return RecordingError(f"a file may have {MAX_UPLOAD_BYTES // 1_000_000} MB", "upload_too_large")
