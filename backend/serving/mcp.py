"""The endpoints as tools of the Model Context Protocol, over its streamable HTTP.

https://modelcontextprotocol.io/specification/2025-06-18/basic/transports. Gradio has a server for
it, which wants another major version of the package `mcp` than the clients here do, takes 0.6 s and
27 MB of a start, and calls its own address over HTTP, as the first client's `Host` header names it
and without our access key. What two tools need of the protocol are four methods without a state.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from backend.config import MAX_DECISION_BIAS, VERSION
from backend.errors import RecordingError
from backend.serving.access import Doorkeeper
from backend.serving.answers import body_of
from backend.serving.endpoints import Endpoints
from backend.serving.proxies import address_of
from backend.serving.uploads import Uploads

PATH = "/gradio_api/mcp"
VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Of the protocol, the newest first: what these tools need is the same in all."""
MAX_BODY_BYTES = 8 * 1024 * 1024
"""With a file in base64, so of 6 MB: larger ones are uploaded."""

_METHOD_NOT_FOUND = -32601
_INVALID_PARAMS = -32602
Fields = dict[str, Any]


class McpMessage(BaseModel):
    """A request, or, without an id, a notification."""

    model_config = ConfigDict(extra="ignore")

    id: int | str | None = None
    method: str = ""
    params: Fields = {}


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a client may have done."""

    description: str
    properties: Fields
    """Its arguments, as JSON Schema; `audio` is required."""
    call: Callable[[Fields], Awaitable[Fields]]
    """From arguments to the result."""


class McpApi:
    """The route.

    Args:
        doorkeeper: who may come in.
        endpoints: what the tools do.
        uploads: where files are while they are heard.
    """

    def __init__(self, doorkeeper: Doorkeeper, endpoints: Endpoints, uploads: Uploads) -> None:
        self._doorkeeper = doorkeeper
        self._endpoints = endpoints
        self._uploads = uploads
        self._tools = {
            "listen": Tool(
                "Have the streaming audio model hear a recording: it says when it would speak up, "
                "with which emotion, and what.",
                {
                    "audio": _AUDIO,
                    "decision_bias": {
                        "type": "number",
                        "minimum": -MAX_DECISION_BIAS,
                        "maximum": MAX_DECISION_BIAS,
                        "default": 0,
                        "description": "above 0 the model is eager to speak, below 0 shy",
                    },
                },
                self._listen,
            ),
            "answer": Tool(
                "Have the model answer one clip of at most 20 s, which it hears as a whole.",
                {
                    "audio": _AUDIO,
                    "text": {"type": "string", "description": "what is asked about the clip"},
                },
                self._answer,
            ),
        }

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        routes = APIRouter(dependencies=[Depends(self._doorkeeper.with_key)])
        for path in (PATH, f"{PATH}/"):
            routes.add_api_route(path, self._receive, methods=["POST"])
        # Gradio's page about its endpoints looks here for the tools.
        routes.add_api_route(f"{PATH}/schema", self._schema, methods=["GET"])
        app.include_router(routes)

    async def _receive(self, request: Request) -> Response:
        message = await body_of(request, McpMessage, MAX_BODY_BYTES)
        if message.id is None:
            return Response(status_code=202)
        answer: Fields = {"jsonrpc": "2.0", "id": message.id}
        match message.method:
            case "initialize":
                answer["result"] = _introduction(message.params)
            case "ping":
                answer["result"] = {}
            case "tools/list":
                answer["result"] = {"tools": self._listed()}
            case "tools/call" if tool := self._tools.get(str(message.params.get("name"))):
                answer["result"] = await self._called(tool, message.params, address_of(request))
            case "tools/call":
                answer["error"] = {"code": _INVALID_PARAMS, "message": "there is no such tool"}
            case _:
                answer["error"] = {"code": _METHOD_NOT_FOUND, "message": "no such method here"}
        return JSONResponse(answer)

    def _listed(self) -> list[Fields]:
        return [
            {
                "name": name,
                "description": tool.description,
                "inputSchema": {
                    "type": "object",
                    "properties": tool.properties,
                    "required": ["audio"],
                },
                "annotations": {"readOnlyHint": True, "openWorldHint": False},
            }
            for name, tool in self._tools.items()
        ]

    async def _schema(self) -> list[Fields]:
        return [
            tool | {"meta": {"file_data_present": False, "endpoint_name": tool["name"]}}
            for tool in self._listed()
        ]

    async def _called(self, tool: Tool, params: Fields, owner: str) -> Fields:
        try:
            arguments = dict(params.get("arguments") or {})
            arguments["audio"] = await self._file(arguments.get("audio"), owner)
            known = {name: value for name, value in arguments.items() if name in tool.properties}
            return await tool.call(known)
        except RecordingError as error:
            return {"content": [_text(error.message)], "isError": True}

    async def _file(self, audio: object, owner: str) -> str:
        """The name among the uploads of what a client gave: that name, or the file itself."""
        text = audio if isinstance(audio, str) else ""
        head, comma, data = text.partition(",")
        if not head.startswith("data:") or not comma:
            return text
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RecordingError("the data: address is not base64", "invalid_value") from error
        return await self._uploads.add(content, "", owner)

    async def _listen(self, arguments: Fields) -> Fields:
        events, figure, replies = await self._endpoints.listen(**arguments)
        picture = await asyncio.to_thread(self._uploads.find(figure.path).read_bytes)
        told = {"replies": replies, "num_events": len(events)}
        image = {
            "type": "image",
            "data": base64.b64encode(picture).decode(),
            "mimeType": "image/png",
        }
        return {"content": [_text(_as_json(told)), image], "structuredContent": told}

    async def _answer(self, arguments: Fields) -> Fields:
        told = await self._endpoints.answer(**arguments)
        return {"content": [_text(_as_json(told))], "structuredContent": told}


_AUDIO = {
    "type": "string",
    "description": "an audio file of at most 10 minutes: a data: address with base64 "
    "(data:audio/wav;base64,...) of up to 6 MB, or the name that POST /gradio_api/upload gave. "
    "Other addresses are not fetched.",
}


def _introduction(params: Fields) -> Fields:
    wanted = params.get("protocolVersion")
    return {
        "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "audio-interaction-live", "version": VERSION},
    }


def _text(text: str) -> Fields:
    return {"type": "text", "text": text}


def _as_json(fields: Fields) -> str:
    return json.dumps(fields, ensure_ascii=False)
