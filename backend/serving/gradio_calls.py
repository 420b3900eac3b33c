"""Calls of Gradio's endpoints: what its clients ask for, and nothing that they add to it.

https://www.gradio.app/guides/querying-gradio-apps-with-curl
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, Field
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from backend.errors import RecordingError
from backend.serving.access import BehindDoorkeeper, Doorkeeper
from backend.serving.answers import body_of
from backend.serving.page_routes import Rendered
from backend.serving.uploads import Uploads
from webui.gradio_app import GradioApp

PREFIX = "/gradio_api"
MAX_CALL_BYTES = 64 * 1024
MAX_ARGUMENTS = 8
MAX_CALLS = 20
"""Of one client, of which it has not been told."""
_OF_THE_VISITOR = (b"x-ip-token",)
"""By which ZeroGPU knows whose share of its time a call takes."""


class Call(BaseModel):
    """An endpoint's arguments, in order."""

    data: list[Any] = Field(max_length=MAX_ARGUMENTS)


class QueuedCall(Call):
    """The same from a client that follows several calls at once, under a name of its own."""

    fn_index: int
    session_hash: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]


class GradioCalls:
    """The routes that `gradio_client` and programs like it need, for those who may also talk.

    Gradio runs its queue; uploads and what is given back are ours (`Uploads`). Of a request
    Gradio is handed only what is named here: it would take orders from the rest, or fail on it.

    Args:
        gradio: its application and page.
        doorkeeper: who may come in.
        uploads: files that came, and that were made.
    """

    def __init__(self, gradio: GradioApp, doorkeeper: Doorkeeper, uploads: Uploads) -> None:
        self._gradio = gradio
        self._doorkeeper = doorkeeper
        self._uploads = uploads
        self._followed: set[str] = set()
        """Sessions that somebody is being told of: Gradio fails where two are."""

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        files = APIRouter(prefix=PREFIX, dependencies=[Depends(self._doorkeeper.with_key)])
        files.add_api_route("/upload", self._uploads.receive, methods=["POST"])
        files.add_api_route("/file={name}", self._uploads.answer, methods=["GET"])
        app.include_router(files)
        told = Rendered(self._gradio.app)
        for path, answer, method in (
            ("/config", told, "GET"),
            (f"{PREFIX}/info", told, "GET"),
            (f"{PREFIX}/queue/join", self._join, "POST"),
            (f"{PREFIX}/queue/data", self._follow, "GET"),
            (f"{PREFIX}/call/{{name}}", self._call, "POST"),
            (f"{PREFIX}/call/{{name}}/{{event_id}}", self._follow_call, "GET"),
        ):
            behind = BehindDoorkeeper(answer, self._doorkeeper)
            app.router.routes.append(Route(path, behind, methods=[method]))

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = await body_of(Request(scope, receive), QueuedCall, MAX_CALL_BYTES)
        if wanted.fn_index not in self._gradio.page.fns:
            raise _unknown()
        if self._gradio.num_calls(wanted.session_hash) >= MAX_CALLS:
            raise RecordingError("read first what came of earlier calls", "too_many_requests")
        await self._hand_on(wanted, scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._require_endpoint(scope)
        wanted = await body_of(Request(scope, receive), Call, MAX_CALL_BYTES)
        await self._hand_on(wanted, scope, receive, send)

    async def _follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_hash = Request(scope).query_params.get("session_hash", "")
        query = urlencode({"session_hash": session_hash}).encode()
        with self._following(session_hash):
            await self._ask({**scope, "query_string": query}, receive, send)

    async def _follow_call(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._require_endpoint(scope)
        with self._following(self._gradio.session_of(scope["path_params"]["event_id"])):
            await self._ask({**scope, "query_string": b""}, receive, send)

    @contextmanager
    def _following(self, session_hash: str | None) -> Iterator[None]:
        """While somebody is told what comes of a session's calls.

        Raises:
            RecordingError: nothing comes, or it is told already.
        """
        is_there = session_hash is not None and self._gradio.has_session(session_hash)
        if session_hash is None or not is_there or session_hash in self._followed:
            raise _unknown()
        self._followed.add(session_hash)
        try:
            yield
        finally:
            self._followed.discard(session_hash)

    def _require_endpoint(self, scope: Scope) -> None:
        if scope["path_params"]["name"] not in self._gradio.names:
            raise _unknown()

    async def _hand_on(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        body = call.model_dump_json().encode()

        async def receive_anew() -> Message:
            nonlocal body
            if not body:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = b""
            return message

        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        scope = {**scope, "query_string": b"", "headers": headers}
        await self._ask(scope, receive_anew, send)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = (b"host", b"content-type", b"content-length", *_OF_THE_VISITOR)
        headers = [(name, value) for name, value in scope["headers"] if name in named]
        await self._gradio.app({**scope, "headers": headers}, receive, send)


def _unknown() -> RecordingError:
    return RecordingError("there is no such endpoint, or nothing waits for it", "not_found")
