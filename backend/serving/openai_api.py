"""What OpenAI's clients ask for over HTTP, beside the sockets: models, short-lived keys, calls."""

from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, Field

from backend.serving.access import Doorkeeper
from backend.serving.answers import body_of
from backend.wires.conversations import Conversations
from backend.wires.errors import CloseCode, ConnectionEnd, WireError
from backend.wires.realtime.client_messages import session_update

MAX_BODY_BYTES = 64 * 1024

Fields = dict[str, Any]

_UNSUPPORTED = {
    "": ("webrtc_unsupported", "connect to this address by WebSocket: there is no WebRTC here"),
    "/{session_id}/accept": ("sip_unsupported", "there are no telephone calls here"),
    "/{session_id}/refer": ("sip_unsupported", "there are no telephone calls here"),
    "/{session_id}/reject": ("sip_unsupported", "there are no telephone calls here"),
    "/{session_id}/fork": (
        "fork_unsupported",
        "a live session cannot be begun as another one stood; see /v1/recordings for those "
        "that are over",
    ),
}
"""What is posted to `/v1/live/sessions`, and why it cannot be."""


class ExpiresAfter(BaseModel):
    """For how long a key is one."""

    anchor: Literal["created_at"] = "created_at"
    seconds: int = Field(default=600, ge=10, le=7200)


class SecretWanted(BaseModel):
    """A short-lived key."""

    expires_after: ExpiresAfter = Field(default_factory=ExpiresAfter)
    session: dict[str, Any] = {}


class OpenAIApi:
    """The routes.

    Args:
        doorkeeper: who may come in.
        model: the checkpoint's name.
        conversations: those that may be ended.
    """

    def __init__(self, doorkeeper: Doorkeeper, model: str, conversations: Conversations) -> None:
        self._doorkeeper = doorkeeper
        self._model = model
        self._conversations = conversations

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        routes = APIRouter(prefix="/v1", dependencies=[Depends(self._doorkeeper.with_key)])
        routes.add_api_route("/models", self._models, methods=["GET"])
        routes.add_api_route("/models/{model:path}", self._find_model, methods=["GET"])
        routes.add_api_route("/realtime/client_secrets", self._create_secret, methods=["POST"])
        live = "/live/sessions"
        for path, (code, reason) in _UNSUPPORTED.items():
            routes.add_api_route(f"{live}{path}", _refusing(code, reason), methods=["POST"])
        routes.add_api_route(
            f"{live}/{{session_id}}/hangup", self._hang_up, methods=["POST"], status_code=204
        )
        content = "a session that was recorded is at /v1/recordings, by the id that it was told"
        routes.add_api_route(
            f"{live}/{{session_id}}/content",
            _refusing("recording_not_found", content),
            methods=["GET"],
        )
        app.include_router(routes)

    async def _models(self) -> Fields:
        return {"object": "list", "data": [self._model_object()]}

    async def _find_model(self, model: str) -> Fields:
        if model != self._model:
            raise _refusal("not_found", f"the model of this server is {self._model}")
        return self._model_object()

    def _model_object(self) -> Fields:
        return {"id": self._model, "object": "model", "created": 0, "owned_by": "local"}

    async def _create_secret(self, request: Request) -> Fields:
        wanted = await body_of(request, SecretWanted, MAX_BODY_BYTES, if_empty=b"{}")
        try:
            session_update(wanted.session)
        except WireError as error:
            raise ConnectionEnd(error, CloseCode.POLICY) from error
        secret = self._doorkeeper.secrets.create(wanted.expires_after.seconds, wanted.session)
        shown = {"type": "realtime", **secret.session}
        return {"value": secret.value, "expires_at": secret.expires_at, "session": shown}

    async def _hang_up(self, session_id: str) -> None:
        if not self._conversations.hang_up(session_id):
            raise _refusal("not_found", "there is no such session, or it is over")


def _refusing(code: str, reason: str) -> Any:
    async def refuse() -> None:
        raise _refusal(code, reason)

    return refuse


def _refusal(code: str, message: str) -> ConnectionEnd:
    return ConnectionEnd(WireError(message, code), CloseCode.POLICY)
