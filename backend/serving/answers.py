"""Requests and answers in JSON: what a body says, and how errors are told."""

import logging
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from backend.errors import AudioInteractionError, RecordingError, SessionFileError, SettingsError
from backend.wires.errors import ConnectionEnd

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024
MAX_PLACE_CHARACTERS = 200
"""Of what is wrong, in words: a client may have named it."""
# No cache on the way keeps what was said, and no browser takes it for something else.
PRIVATE = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}

Fields = dict[str, Any]
Body = TypeVar("Body", bound=BaseModel)

_STATUS = {
    "invalid_value": 422,
    "invalid_recording": 422,
    "not_found": 404,
    "recording_not_found": 404,
    "share_not_found": 404,
    "recording_off": 403,
    "recording_going": 409,
    "sharing_off": 403,
    "too_many_shares": 409,
    "recording_full": 507,
    "recording_failed": 503,
    "forks_full": 503,
    "upload_too_large": 413,
    "other_checkpoint": 409,
    "origin_not_allowed": 403,
    "invalid_api_key": 401,
    "too_many_connections": 429,
    "too_many_waiting": 503,
    "uploads_full": 507,
    "too_many_requests": 429,
}
_CLIENT_GONE = 499
"""By a custom of proxies; nobody reads it."""
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def body_of(
    request: Request, model: type[Body], max_bytes: int = MAX_BODY_BYTES, if_empty: bytes = b""
) -> Body:
    """What a request says; `if_empty` is what one without a body says.

    Raises:
        RecordingError: it is something else.
    """
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > max_bytes:
            raise RecordingError(f"a request may have {max_bytes // 1024} kB", "upload_too_large")
    try:
        return model.model_validate_json(content or if_empty)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:MAX_PLACE_CHARACTERS]
        raise RecordingError(
            f"{place}: {first['msg']}" if place else first["msg"], "invalid_value"
        ) from error


def tell_errors(app: FastAPI) -> None:
    """Have errors told in JSON, and unknown addresses below `/v1` be one; after all other routes.

    The page, which is at every other address, would answer in its own way.
    """
    app.add_api_route("/v1/{rest:path}", _tell_unknown, methods=_METHODS)
    for error in (AudioInteractionError, ConnectionEnd):
        app.add_exception_handler(error, _tell)
    app.add_exception_handler(ClientDisconnect, _tell_nobody)


async def _tell_unknown(rest: str) -> Response:
    raise RecordingError(f"nothing is at /v1/{rest[:100]}, or not by this method", "not_found")


async def _tell_nobody(request: Request, error: Exception) -> Response:
    logger.info("a client went away before its answer was ready")
    return Response(status_code=_CLIENT_GONE)


async def _tell(request: Request, error: Exception) -> Response:
    """An error as clients see it."""
    fields, status = error_fields(error)
    return JSONResponse(fields, status_code=status, headers=PRIVATE)


def error_fields(error: Exception) -> tuple[Fields, int]:
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
