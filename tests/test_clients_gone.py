"""A client that goes away is one line in the log, wherever it was."""

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

WAIT_SECONDS = 60.0


async def first_type(client: ClientConnection) -> str:
    async with asyncio.timeout(WAIT_SECONDS):
        return str(json.loads(await client.recv())["type"])


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("backend")]


async def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log's lines, once there are any."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not lines(caplog):
        assert time.monotonic() < deadline, "nothing was told"
        await asyncio.sleep(0.01)
    return lines(caplog)


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("", "session.created"),
        ("duplex=1", "session.created"),
        ("duplex=1&autostart=0", None),
        ("duplex=1&wait=1", "session.queued"),
    ],
)
async def test_a_client_that_goes_is_one_line(
    query: str, first: str | None, is_lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = ScriptedEngine([ScriptedReply("yes")], num_slots=1)
    with serving(engine) as address:
        async with AsyncExitStack() as stack:
            if first == "session.queued":
                other = connect(f"ws://{address}/v1/realtime", proxy=None)
                assert await first_type(await stack.enter_async_context(other)) == "session.created"
            client = await connect(f"ws://{address}/v1/realtime?{query}", proxy=None)
            if first is not None:
                assert await first_type(client) == first
            if is_lost:
                client.transport.abort()
            else:
                await client.close()
            assert await told(caplog) == [f"a client went away ({'lost' if is_lost else 1000})"]
        assert not [record for record in caplog.records if record.exc_info]
