"""Files as answers: whole or a part of them, given up where nothing of them is read."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, tzinfo
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from backend.recordings.cache import RecordingCache, Sending
from backend.recordings.transcript import Fields
from backend.serving.answers import PRIVATE

logger = logging.getLogger(__name__)

BLOCK_BYTES = 256 * 1024
UNREAD_SECONDS = 60.0
"""An answer of which nothing is read for so long is given up."""
MAX_NAME_CHARACTERS = 80
MAX_ZONE_CHARACTERS = 64


class FileAnswer(StreamingResponse):
    """A file that is being sent. Starlette's FileResponse opens a file by its name, and late.

    Args:
        cache: keeps it, and may want it back.
        sending: the file.
        media_type: what it is.
        headers: more of them.
        asked: the one range of bytes that is asked for; None or anything else is all of them.
    """

    def __init__(
        self,
        cache: RecordingCache,
        sending: Sending,
        media_type: str,
        headers: dict[str, str],
        asked: str | None = None,
    ) -> None:
        self._cache = cache
        self._sending = sending
        size = os.fstat(sending.file.fileno()).st_size
        part = range_of(asked or "", size)
        self._part = range(size) if part is None else part
        status = 200
        if part is not None:
            status = 206 if part else 416
            stated = f"{part.start}-{part.stop - 1}" if part else "*"
            headers = headers | {"Content-Range": f"bytes {stated}/{size}"}
        super().__init__(
            self._blocks(),
            status_code=status,
            headers=PRIVATE | {"Content-Length": str(len(self._part))} | headers,
            media_type=media_type,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        state = scope.get("state", {})
        give_up: Callable[[], None] = state.get("give_up", lambda: None)

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(UNREAD_SECONDS):
                await send(message)

        try:
            async with asyncio.timeout(None) as until:
                loop = asyncio.get_running_loop()
                self._sending.give_up = lambda: until.reschedule(loop.time())
                await super().__call__(scope, receive, send_in_time)
        except* TimeoutError:
            logger.info("a download is given up: it is not read, or was deleted")
            # What was sent is less than was announced.
            give_up()
        finally:
            self._sending.give_up = None
            self._cache.close(self._sending)

    async def _blocks(self) -> AsyncGenerator[bytes, None]:
        file, num_left = self._sending.file, len(self._part)
        await asyncio.to_thread(file.seek, self._part.start)
        while num_left and (
            block := await asyncio.to_thread(file.read, min(BLOCK_BYTES, num_left))
        ):
            num_left -= len(block)
            yield block


def range_of(asked: str, size: int) -> range | None:
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


def as_download(summary: Fields, suffix: str, time_zone: str) -> dict[str, str]:
    """The headers of a file to take away: its name is the recording's title, or when it began.

    Args:
        summary: of the recording.
        suffix: of the name.
        time_zone: of whoever takes it away, as `Europe/Berlin`; UTC where there is none such.
    """
    title = "".join(c if c.isalnum() or c in " -_" else " " for c in str(summary["title"]))
    name = " ".join(title.split())[:MAX_NAME_CHARACTERS]
    if not name:
        began = datetime.fromisoformat(str(summary["started_at"])).astimezone(_zone(time_zone))
        name = f"recording {began:%Y-%m-%d %H.%M}"
    plain = name.encode("ascii", "ignore").decode().strip() or "recording"
    named = f"filename=\"{plain}{suffix}\"; filename*=utf-8''{quote(name + suffix)}"
    return {"Content-Disposition": f"attachment; {named}"}


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name[:MAX_ZONE_CHARACTERS])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC
