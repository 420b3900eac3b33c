"""Files that clients bring to an endpoint, or are given by one: few, for minutes, and no others."""

import asyncio
import mimetypes
import secrets
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, Response
from starlette.types import Message

from backend.errors import RecordingError
from backend.serving.proxies import address_of

MAX_FILE_BYTES = 25_000_000
MAX_BYTES_PER_ADDRESS = 100_000_000
MAX_BYTES = 400_000_000
AGE_SECONDS = 900.0
"""After which a file is deleted, used or not."""
_MAX_FIELDS = 4
_MAX_SUFFIX = 8
"""Letters of a file's ending that are kept: decoders look at it."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    owner: str
    num_bytes: int


class Uploads:
    """Keeps files under names that cannot be guessed, and that name no place on this machine.

    Args:
        age_seconds: for how long.
    """

    def __init__(self, age_seconds: float = AGE_SECONDS) -> None:
        self._age_seconds = age_seconds
        self._folder: Path | None = None
        self._kept: dict[str, _Kept] = {}
        self._num_bytes: Counter[str] = Counter()
        """By owner: of files that are kept, or on their way."""

    async def receive(self, request: Request) -> list[str]:
        """Take the file of a form, as Gradio's clients send it; its name, as the one of a list.

        Raises:
            RecordingError: it is too large, there is no room for it, or it is no form with a file.
        """
        owner = address_of(request)
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await request.receive()
            size = len(message.get("body", b""))
            self._take_room(owner, size)
            num_bytes += size
            if num_bytes > MAX_FILE_BYTES:
                raise RecordingError(
                    f"a file may have {MAX_FILE_BYTES // 1_000_000} MB", "upload_too_large"
                )
            return message

        try:
            async with Request(request.scope, counted).form(
                max_files=1, max_fields=_MAX_FIELDS
            ) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    raise RecordingError("there is no file in the field `files`", "invalid_value")
                suffix = Path(file.filename or "").suffix
                path = await asyncio.to_thread(self._new_path, suffix)
                await asyncio.to_thread(_copy, file, path)
        except BaseException:
            self._give_room_back(owner, num_bytes)
            raise
        return [self._keep(_Kept(path, owner, num_bytes))]

    async def add(self, content: bytes, suffix: str, owner: str = "") -> str:
        """Keep something that was made here, or came otherwise; its name.

        Raises:
            RecordingError: there is no room for it.
        """
        self._take_room(owner, len(content))
        try:
            path = await asyncio.to_thread(self._new_path, suffix)
            await asyncio.to_thread(path.write_bytes, content)
        except BaseException:
            self._give_room_back(owner, len(content))
            raise
        return self._keep(_Kept(path, owner, len(content)))

    def find(self, name: object) -> Path:
        """The file with that name.

        Raises:
            RecordingError: there is none, or no longer.
        """
        kept = self._kept.get(name) if isinstance(name, str) else None
        if kept is None:
            raise RecordingError(
                "there is no such file here, or no longer: upload it first. Files on the server "
                "are not read, and addresses elsewhere are not fetched.",
                "not_found",
            )
        return kept.path

    def answer(self, name: str) -> Response:
        """A file over HTTP: pictures are shown, all else is taken away."""
        path = self.find(name)
        media_type, _ = mimetypes.guess_type(path)
        is_picture = media_type == "image/png"
        return FileResponse(
            path,
            media_type="image/png" if is_picture else "application/octet-stream",
            content_disposition_type="inline" if is_picture else "attachment",
            filename=path.name,
            headers={"Cache-Control": "no-store"},
        )

    def close(self) -> None:
        """Delete all of it."""
        self._kept.clear()
        self._num_bytes.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _take_room(self, owner: str, num_bytes: int) -> None:
        """Count some more.

        Raises:
            RecordingError: it is too much.
        """
        of_owner, of_all = self._num_bytes[owner] + num_bytes, self._num_bytes.total() + num_bytes
        if of_owner > MAX_BYTES_PER_ADDRESS or of_all > MAX_BYTES:
            minutes = self._age_seconds / 60
            raise RecordingError(
                f"there is no room for more files now; they are deleted after {minutes:g} minutes",
                "uploads_full",
            )
        self._num_bytes[owner] = of_owner

    def _give_room_back(self, owner: str, num_bytes: int) -> None:
        self._num_bytes[owner] -= num_bytes
        # Addresses that have gone are not remembered.
        self._num_bytes += Counter()

    def _new_path(self, suffix: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="audio-interaction-uploads-"))
        ending = suffix if suffix[1:].isalnum() and len(suffix) <= _MAX_SUFFIX else ""
        return self._folder / f"{secrets.token_urlsafe(16)}{ending}"

    def _keep(self, kept: _Kept) -> str:
        self._kept[kept.path.name] = kept
        loop = asyncio.get_running_loop()
        loop.call_later(self._age_seconds, self._forget, kept.path.name)
        return kept.path.name

    def _forget(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is not None:
            self._give_room_back(kept.owner, kept.num_bytes)
            kept.path.unlink(missing_ok=True)


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("xb") as target:
        shutil.copyfileobj(file.file, target)
