"""Audio that is there already, through a session: fed and followed side by side."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import suppress

from backend.audio import Samples
from backend.engine.engine import EngineSession
from backend.errors import SessionClosedError
from backend.events import Event, SessionFailed


async def follow(
    session: EngineSession, chunks: AsyncIterable[Samples] | Iterable[Samples]
) -> AsyncGenerator[Event, None]:
    """Feed a session and yield what happens, until everything is heard and said.

    Chunks are taken as the session has room for them, ahead of what is yielded. Of a session that
    fails, `SessionFailed` is the last event.

    Args:
        session: stays open.
        chunks: each `[6400]`.

    Raises:
        What taking a chunk raises, once what was fed before has been yielded.
    """
    feeding = asyncio.create_task(_feed(session, chunks))
    try:
        async for event in session.events():
            yield event
            if isinstance(event, SessionFailed):
                return
        await feeding
    finally:
        feeding.cancel()


async def _feed(session: EngineSession, chunks: AsyncIterable[Samples] | Iterable[Samples]) -> None:
    # A session that is over has failed, which its events tell.
    with suppress(SessionClosedError):
        try:
            if isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    await session.feed(chunk)
            else:
                for chunk in chunks:
                    await session.feed(chunk)
        finally:
            session.finish()
