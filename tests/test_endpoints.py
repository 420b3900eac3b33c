"""Endpoints for programs: called by Gradio's client and by an MCP client, and by strangers."""

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import httpx
import httpx2
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, AuthenticationError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from starlette.testclient import TestClient

from backend.allowance import WaitingLine
from backend.config import EngineConfig
from backend.engine import Engine
from backend.errors import RecordingError
from backend.model.checkpoint import Checkpoint
from backend.serving import uploads
from backend.serving.listeners import ZeroGpuListener
from backend.serving.process import ServingOptions
from backend.serving.server import create_app
from backend.serving.uploads import Uploads
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free
from tests.sockets import WAIT_SECONDS, settle
from webui.gradio_app import MAX_SESSIONS

KEY = "open sesame"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
SEVEN = Path(__file__).parents[1] / "assets" / "samples" / "digit_seven.ogg"
FILE_DATA = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def server(embedded_checkpoint: Checkpoint) -> Iterator[str]:
    engine = Engine(embedded_checkpoint, EngineConfig(num_slots=1))
    with engine, serving(engine, options=ServingOptions(access_key=KEY)) as address:
        yield f"http://{address}"
        wait_until_free(engine)


@pytest.fixture(scope="module")
def stranger() -> Iterator[TestClient]:
    """Knows no key, and none is asked for."""
    app = create_app(cast(Engine, ScriptedEngine([ScriptedReply("Yes.")])))
    with TestClient(app, base_url="http://localhost:7860") as client:
        yield client


# Programs


def test_gradio_client(server: str) -> None:
    with pytest.raises(AuthenticationError):
        Client(server, verbose=False)
    client = Client(server, headers=WITH_KEY, verbose=False)
    api = client.view_api(return_format="dict")
    assert isinstance(api, dict)
    assert list(api["named_endpoints"]) == ["/listen", "/answer"]
    assert "as the live page would" in api["named_endpoints"]["/listen"]["description"]
    events, figure, replies = client.predict(handle_file(SEVEN), api_name="/listen")
    assert [reply["text"] for reply in replies] == ["You said seven."]
    assert {"decision", "turn_started", "text_delta", "turn_done"} == {
        event["event"] for event in events
    }
    assert [event["chunk"] for event in events if event["event"] == "decision"] == [0, 1, 2, 3, 4]
    with Image.open(figure) as picture:
        assert (picture.format, picture.width) == ("PNG", 1200)
    shy = client.predict(handle_file(SEVEN), decision_bias=-8, api_name="/listen")
    assert shy[2] == []
    answer = client.predict(handle_file(SEVEN), api_name="/answer")
    assert answer == {"text": "You said seven.", "emotion": "normal"}
    with pytest.raises(AppError, match="the file is damaged, or holds no sound"):
        client.predict(handle_file(__file__), api_name="/listen")
    with pytest.raises(AppError, match="decision bias must be between"):
        client.predict(handle_file(SEVEN), decision_bias=9, api_name="/listen")


def test_curl(server: str) -> None:
    """Two requests, as Gradio's guide has them."""
    with httpx.Client(base_url=server, headers=WITH_KEY, timeout=WAIT_SECONDS) as curl:
        (name,) = curl.post("/gradio_api/upload", files={"files": SEVEN.open("rb")}).json()
        call = curl.post("/gradio_api/call/answer", json={"data": [{"path": name}, ""]}).json()
        told = curl.get(f"/gradio_api/call/answer/{call['event_id']}").text
    assert told.startswith("event: complete\n")
    assert "You said seven." in told


async def use_tools(server: str) -> list[Any]:
    heard = base64.b64encode(SEVEN.read_bytes()).decode()
    async with (
        httpx2.AsyncClient(headers=WITH_KEY, timeout=WAIT_SECONDS) as http,
        streamable_http_client(f"{server}/gradio_api/mcp/", http_client=http) as (reads, writes),
        ClientSession(reads, writes) as session,
    ):
        await session.initialize()
        tools = await session.list_tools()
        assert [tool.name for tool in tools.tools] == ["listen", "answer"]
        audio = {"audio": f"data:audio/ogg;base64,{heard}"}
        return [
            await session.call_tool("listen", audio),
            await session.call_tool("answer", audio | {"text": ""}),
            await session.call_tool("listen", {"audio": "https://example.org/a.wav"}),
        ]


def test_mcp(server: str) -> None:
    heard, answered, refused = asyncio.run(use_tools(server))
    assert heard.structured_content["replies"][0]["text"] == "You said seven."
    assert [part.type for part in heard.content] == ["text", "image"]
    assert base64.b64decode(heard.content[1].data).startswith(b"\x89PNG")
    assert answered.structured_content == {"text": "You said seven.", "emotion": "normal"}
    assert refused.is_error
    assert "addresses elsewhere are not fetched" in refused.content[0].text
    for path in ("/gradio_api/mcp/", "/gradio_api/mcp/schema"):
        assert httpx.get(server + path).status_code in (401, 405)


class LentGpu(ModuleType):
    """The package `spaces`, as far as a Space with ZeroGPU uses it; its GPU is this CPU."""

    def __init__(self) -> None:
        super().__init__("spaces_stand_in")
        self.asked_for: list[int] = []
        self.has_started = False
        zero = ModuleType("spaces_stand_in.zero")
        zero.startup = self.start  # type: ignore[attr-defined]
        sys.modules[zero.__name__] = zero

    def GPU(self, task: Callable[..., Any], duration: Callable[..., int]) -> Callable[..., Any]:  # noqa: N802 (the package's name)
        def call(*arguments: Any) -> Any:
            self.asked_for.append(duration(*arguments))
            return task(*arguments)

        return call

    def start(self) -> None:
        self.has_started = True


def test_zero_gpu() -> None:
    """Files are heard by another checkpoint than the page's, whose places they do not take."""
    spaces = LentGpu()
    listener = ZeroGpuListener(spaces, "embedded", 7860, device="cpu")
    engine = ScriptedEngine([ScriptedReply("Not the page's.")], num_slots=1)
    with serving(engine, options=ServingOptions(zero_gpu=listener)) as address:
        assert spaces.has_started
        client = Client(f"http://{address}", verbose=False)
        _, _, replies = client.predict(handle_file(SEVEN), api_name="/listen")
        answer = client.predict(handle_file(SEVEN), api_name="/answer")
    assert [reply["text"] for reply in replies] == ["You said seven."]
    assert answer["text"] == "You said seven."
    assert spaces.asked_for == [60, 60]


# Strangers

NAMED = {"path": "x", "meta": FILE_DATA}
JOIN = "/gradio_api/queue/join"
BODIES: list[tuple[str, object]] = [
    (JOIN, None),
    (JOIN, []),
    (JOIN, {"data": [NAMED]}),
    (JOIN, {"data": [NAMED], "fn_index": 99, "session_hash": "a"}),
    (JOIN, {"data": [NAMED], "fn_index": 0, "session_hash": "../a"}),
    (JOIN, {"data": [NAMED], "fn_index": "0; x", "session_hash": "a"}),
    (JOIN, {"data": [NAMED] * 9, "fn_index": 0, "session_hash": "a"}),
    (JOIN, {"data": ["x" * 70_000], "fn_index": 0, "session_hash": "a"}),
    ("/gradio_api/call/listen", {"data": "x"}),
    ("/gradio_api/call/nothing", {"data": []}),
    ("/gradio_api/mcp", {"id": [], "method": "ping"}),
    ("/gradio_api/mcp", {"id": 1, "method": "tools/call", "params": []}),
    ("/gradio_api/mcp", "x" * 9_000_000),
    ("/gradio_api/upload", {"files": "x"}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_call_that_is_none_is_refused(stranger: TestClient, path: str, body: object) -> None:
    answer = stranger.post(path, json=body)
    assert answer.status_code in (400, 404, 413, 422)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/queue/data",
        "/gradio_api/queue/data?session_hash=nobody",
        "/gradio_api/call/listen/nothing",
        "/gradio_api/call/nothing/nothing",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=..%2f..%2fetc%2fpasswd",
        "/gradio_api/file=http://127.0.0.1/",
    ],
)
def test_what_is_not_there_is_not_waited_for(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 404


@pytest.mark.parametrize(
    "audio",
    [
        {"path": "/etc/passwd", "meta": FILE_DATA},
        {"path": str(SEVEN), "meta": FILE_DATA},
        {"path": "http://127.0.0.1:9/a.wav", "url": "http://127.0.0.1:9/a.wav", "meta": FILE_DATA},
        {"path": ["x"]},
        {"path": {"path": "/etc/passwd", "meta": FILE_DATA}},
        None,
        7,
        "data:audio/wav;base64,AAAA",
    ],
)
def test_no_file_of_the_server_is_read(
    stranger: TestClient, audio: object, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Nor fetched from elsewhere, nor kept; and nothing is an error of the server."""
    body = {"data": [audio], "fn_index": 0, "session_hash": "a", "trigger_id": 1, "event_data": 2}
    assert stranger.post(JOIN, json=body).status_code == 200
    lines = stranger.get("/gradio_api/queue/data?session_hash=a").text.splitlines()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    (completed,) = [each for each in told if each["msg"] == "process_completed"]
    assert not completed["success"]
    assert "there is no such file here" in completed["output"]["error"]
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


def test_calls_that_nobody_comes_back_for(stranger: TestClient) -> None:
    """Few are remembered, and none of them stops those that follow."""

    def post(path: str, **more: object) -> httpx.Response:
        body = {"data": [{"path": "x"}], **more}
        while (answer := stranger.post(path, json=body)).status_code == 503:
            assert "Queue is full" in answer.text
        return cast(httpx.Response, answer)

    for number in range(MAX_SESSIONS + 30):
        assert post(JOIN, fn_index=1, session_hash=f"session{number}").status_code == 200
    codes = [post(JOIN, fn_index=1, session_hash="same").status_code for _ in range(30)]
    assert codes == [200] * 20 + [429] * 10
    call = post("/gradio_api/call/answer").json()
    told = stranger.get(f"/gradio_api/call/answer/{call['event_id']}").text
    assert "there is no such file here" in told
    assert stranger.get("/gradio_api/queue/data?session_hash=session0").status_code == 404


def test_arguments_of_other_types(stranger: TestClient) -> None:
    (name,) = stranger.post("/gradio_api/upload", files={"files": SEVEN.open("rb")}).json()
    wrong: list[list[object]] = [["0"], [0, 1.5], [0, -1], [None], [{}, {}]]
    for arguments in wrong:
        data = [{"path": name}, *arguments]
        call = stranger.post("/gradio_api/call/listen", json={"data": data}).json()
        told = stranger.get(f"/gradio_api/call/listen/{call['event_id']}").text
        assert told.startswith("event: error\n")
        assert "its log says why" not in told


def test_endpoints_are_behind_the_doorkeeper(server: str, stranger: TestClient) -> None:
    elsewhere = WITH_KEY | {"Origin": "http://elsewhere.example"}
    part = WITH_KEY | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    with httpx.Client(base_url=server, timeout=WAIT_SECONDS) as client:
        for method, path in (
            ("GET", "/config"),
            ("GET", "/gradio_api/info"),
            ("POST", "/gradio_api/upload"),
            ("POST", "/gradio_api/mcp"),
            ("POST", JOIN),
            ("POST", "/gradio_api/call/listen"),
            ("GET", "/gradio_api/queue/data"),
            ("GET", "/gradio_api/file=x"),
        ):
            assert client.request(method, path).status_code == 401
            assert client.request(method, path, headers=elsewhere).status_code == 403
            assert client.request(method, path, headers=part).status_code == 403
            rebound = {"Host": "rebound.example"}
            assert stranger.request(method, path, headers=rebound).status_code == 403


def upload(client: TestClient, num_bytes: int) -> httpx.Response:
    file = {"files": ("a.wav", bytes(num_bytes), "audio/wav")}
    return cast(httpx.Response, client.post("/gradio_api/upload", files=file))


def test_uploads_have_limits(stranger: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused takes no room."""
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 400_000)
    monkeypatch.setattr(uploads, "MAX_BYTES_PER_ADDRESS", 1_000_000)
    for _ in range(5):
        assert upload(stranger, 500_000).json()["error"]["code"] == "upload_too_large"
    for _ in range(2):
        assert upload(stranger, 300_000).status_code == 200
    refused = upload(stranger, 399_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "uploads_full")


async def test_uploads_have_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_BYTES", 8)
    kept = Uploads(age_seconds=0.0)
    try:
        path = kept.find(await kept.add(b"12345678", ".wav"))
        for _ in range(2):
            with pytest.raises(RecordingError, match="no room for more files"):
                await kept.add(b"1", ".wav")
        await settle()
        assert not path.exists()
        with pytest.raises(RecordingError, match="no longer"):
            kept.find(path.name)
        assert await kept.add(b"12345678", ".wav"), "and its room is free"
    finally:
        folder = path.parent
        kept.close()
    assert not folder.exists()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_few_files_wait(stranger: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitingLine, "is_full", True)
    (name,) = upload(stranger, 100).json()
    message = {"id": 1, "method": "tools/call"}
    message["params"] = {"name": "listen", "arguments": {"audio": name}}
    result = stranger.post("/gradio_api/mcp", json=message).json()["result"]
    assert result["isError"]
    assert "too many files wait" in result["content"][0]["text"]
