"""How much of the event loop's time one address may take with HTTP requests: more has to wait."""

import asyncio

from cachetools import LRUCache
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.allowance import LoopShare, LoopTime, Shares
from backend.serving.connection_limits import counted_as
from backend.timing import SystemTime, WorkTime

REQUEST_SHARES = Shares(each=0.2, busy=0.3, saved_seconds=2.0)
"""The page with all its files, anew, takes a quarter of a second."""
REQUEST_SECONDS = 1e-3
"""To read a request and to send its answer, beside what is done for it."""
MAX_WAITING = 200
"""Requests of one address; further ones are refused."""
MAX_ADDRESSES = 10_000
"""That are remembered, those that were heard of last."""
RETRY_SECONDS = 10

_TOO_MANY = "too many requests come from your address; try again in a moment\n"


class RequestAllowance:
    """An application whose requests wait where their address has taken more than its share."""

    def __init__(self, app: ASGIApp, time: WorkTime | None = None) -> None:
        self._app = app
        self._loop_time = LoopTime(time or SystemTime(), REQUEST_SHARES)
        self._from: LRUCache[str, _RequestsFrom] = LRUCache(MAX_ADDRESSES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in its turn; a socket has a share of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = counted_as((scope.get("client") or ("",))[0])
        if (requests := self._from.get(address)) is None:
            requests = self._from[address] = _RequestsFrom(self._loop_time.share())
        if requests.num_waiting >= MAX_WAITING:
            headers = {"Retry-After": str(RETRY_SECONDS)}
            await PlainTextResponse(_TOO_MANY, 429, headers)(scope, receive, send)
            return
        requests.num_waiting += 1
        try:
            async with requests.turn:
                await requests.share.settle()
        finally:
            requests.num_waiting -= 1
        requests.share.charge(REQUEST_SECONDS)
        await requests.share.run(self._answer, scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _RequestsFrom:
    """Those of one address."""

    def __init__(self, share: LoopShare) -> None:
        self.share = share
        self.turn = asyncio.Lock()
        self.num_waiting = 0
