"""What OpenAI's clients ask for over HTTP, beside the sockets: models, short-lived keys, calls."""

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from backend.serving.access import Doorkeeper
from backend.serving.answers import body_of
from backend.wires.conversations import Conversations
from backend.wires.errors import CloseCode, ConnectionEnd, WireError
from backend.wires.realtime.client_messages import session_update

MAX_BODY_BYTES = 64 * 1024

Fields = dict[str, Any]

_NO_CALLS = ("sip_unsupported", "there are no telephone calls here")
_UNSUPPORTED = {
    ("POST", ""): (
        "webrtc_unsupported",
        "connect to this address by WebSocket: there is no WebRTC here",
    ),
    ("POST", "/{session_id}/accept"): _NO_CALLS,
    ("POST", "/{session_id}/refer"): _NO_CALLS,
    ("POST", "/{session_id}/reject"): _NO_CALLS,
    ("POST", "/{session_id}/fork"): (
        "fork_unsupported",
        "a live session cannot be begun as another one stood; see /v1/recordings for those "
        "that are over",
    ),
    ("GET", "/{session_id}/content"): (
        "recording_not_found",
        "a session that was recorded is at /v1/recordings, by the id that it was told",
    ),
}
"""What cannot be asked of `/v1/live/sessions`, and why."""


class ExpiresAfter(BaseModel):
    """For how long a key is one."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(default=600, ge=10, le=7200)


class SecretWanted(BaseModel):
    """A short-lived key."""

    expires_after: ExpiresAfter = Field(default_factory=ExpiresAfter)
    session: dict[str, Any] = {}


def openai_routes(
    doorkeeper: Doorkeeper, model: Callable[[], str], conversations: Conversations
) -> APIRouter:
    """The routes.

    Args:
        doorkeeper: who may come in.
        model: the name of the checkpoint that is in use.
        conversations: those that may be ended.
    """
    routes = APIRouter(prefix="/v1", dependencies=[Depends(doorkeeper.with_key)])

    def described() -> Fields:
        return {"id": model(), "object": "model", "created": 0, "owned_by": "local"}

    @routes.get("/models")
    async def models() -> Fields:
        return {"object": "list", "data": [described()]}

    @routes.get("/models/{name:path}")
    async def find_model(name: str) -> Fields:
        if name != model():
            raise _refusal("not_found", f"the model of this server is {model()}")
        return described()

    @routes.post("/realtime/client_secrets")
    async def create_secret(request: Request) -> Fields:
        wanted = await body_of(request, SecretWanted, MAX_BODY_BYTES, if_empty=b"{}")
        try:
            session_update(wanted.session)
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        secret = doorkeeper.secrets.create(wanted.expires_after.seconds, wanted.session)
        shown = {"type": "realtime", **secret.session}
        return {"value": secret.value, "expires_at": secret.expires_at, "session": shown}

    @routes.post("/live/sessions/{session_id}/hangup", status_code=204)
    async def hang_up(session_id: str) -> None:
        if not conversations.hang_up(session_id):
            raise _refusal("not_found", "there is no such session, or it is over")

    for (method, path), (code, reason) in _UNSUPPORTED.items():
        routes.add_api_route(f"/live/sessions{path}", _refusing(code, reason), methods=[method])
    return routes


def _refusing(code: str, reason: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise _refusal(code, reason)

    return refuse


def _refusal(code: str, message: str) -> ConnectionEnd:
    return ConnectionEnd(WireError(message, code), CloseCode.POLICY)
