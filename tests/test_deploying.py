"""A Space, a path behind a proxy, and the time until the model is there."""

import importlib.util
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from websockets.sync.client import connect
from websockets.typing import Origin

from backend.errors import CheckpointError, SettingsError
from backend.model.hub_store import DownloadPhase, Progress, Report
from backend.serving.access import SecurityHeaders, is_same_origin
from backend.serving.process import LOADING, LeavingError, ServingOptions, StartingApp, serve
from backend.serving.proxies import Prefixed
from backend.serving.surroundings import (
    Surroundings,
    listen_on,
    page_address,
    settle_in,
    surroundings,
)
from tests.browsing import open_page, part
from tests.reverse_proxy import reverse_proxy
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving
from webui.bundling import STATIC_FOLDER

REPOSITORY = Path(__file__).parents[1]
SPACE = {"SPACE_ID": "someone/voice", "SPACE_HOST": "someone-voice.hf.space"}


# On a Space


def test_at_home_nothing_is_assumed() -> None:
    assert surroundings({"LANG": "en"}) == Surroundings()
    environment = {"LANG": "en"}
    settle_in(environment)
    assert environment == {"LANG": "en"}


def test_on_a_space() -> None:
    here = surroundings(SPACE)
    assert (here.host, here.trusted_proxies) == ("0.0.0.0", "*")
    assert not here.may_record
    assert here.wants_released_model
    page = Headers({"origin": "https://someone-voice.hf.space", "host": "10.0.0.7:7860"})
    assert is_same_origin(page, here.own_hosts)
    assert not is_same_origin(page)
    other = Headers({"origin": "https://someone-else.hf.space", "host": "10.0.0.7:7860"})
    assert not is_same_origin(other, here.own_hosts)


@pytest.mark.parametrize(("has_storage", "storage"), [(True, "data"), (False, "scratch")])
def test_a_space_writes_where_it_may(has_storage: bool, storage: str, tmp_path: Path) -> None:
    environment = dict(SPACE)
    persistent = tmp_path / "data"
    if has_storage:
        persistent.mkdir()
    settle_in(environment, persistent, tmp_path / "scratch")
    assert environment["HF_HOME"] == str(tmp_path / storage / ".huggingface")
    assert environment["XDG_CACHE_HOME"].startswith(str(tmp_path / "scratch"))
    environment = SPACE | {"HF_HOME": "/elsewhere"}
    settle_in(environment, persistent, tmp_path / "scratch")
    assert environment["HF_HOME"] == "/elsewhere"


@pytest.mark.parametrize(
    ("origins", "policy"),
    [
        ((), "frame-ancestors 'self'"),
        (("https://huggingface.co",), "frame-ancestors 'self' https://huggingface.co"),
    ],
)
def test_who_may_frame_the_page(origins: tuple[str, ...], policy: str) -> None:
    client = TestClient(SecurityHeaders(FastAPI(), origins))
    assert client.get("/").headers["content-security-policy"] == policy


@pytest.fixture(scope="module")
def assembling() -> ModuleType:
    path = REPOSITORY / ".ci" / "assemble_space.py"
    spec = importlib.util.spec_from_file_location("assemble_space", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_pushed_to_a_space(assembling: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "space"
    stated = (REPOSITORY / "requirements.txt").read_text("utf-8")
    assembling.assemble(folder)
    pushed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert pushed >= {
        "app.py",
        "README.md",
        "requirements.txt",
        "backend/serving/server.py",
        "webui/static/main.js",
        "assets/checkpoint/model.safetensors",
        "assets/samples/samples.json",
    }
    assert not any(
        re.match(r"tests|\.git/|\.ci|backend/training|Makefile", name) for name in pushed
    )
    assert (folder / "requirements.txt").read_text("utf-8") == stated
    stored_by_lfs = tuple(f".{suffix}" for suffix in assembling.BINARIES)
    for name in pushed:
        if not name.endswith(stored_by_lfs):
            # The Hub takes text only without LFS.
            (folder / name).read_text("utf-8")
    assert "\nsuggested_hardware: t4-small\n" in (folder / "README.md").read_text("utf-8")
    assembling.assemble(folder, "cpu")
    assert "\nsuggested_hardware: cpu-basic\n" in (folder / "README.md").read_text("utf-8")
    first, _, rest = (folder / "requirements.txt").read_text("utf-8").partition("\n")
    assert first == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert rest == stated


def test_a_pin_that_a_space_cannot_install(assembling: ModuleType) -> None:
    stated = (REPOSITORY / "requirements.txt").read_text("utf-8")
    assembling.check_requirements(stated)
    newer = re.sub(r"(?m)^pydantic==.*$", "pydantic==2.14.3", stated)
    assert newer != stated
    with pytest.raises(SystemExit, match=r"pydantic 2\.14\.3 does not suit Spaces"):
        assembling.check_requirements(newer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sdk_version": "6.0.0"}, "sdk_version must be that of requirements.txt, 6."),
        ({"python_version": 3.1}, "python_version must be text"),
        ({"colorFrom": "mauve"}, "colours of the Hub"),
        ({"short_description": "x" * 61}, "at most 60 characters"),
        ({"app_file": "main.py"}, "app_file must be app.py"),
    ],
)
def test_a_front_matter_that_would_not_do(
    assembling: ModuleType, change: Mapping[str, object], said: str
) -> None:
    settings = assembling.front_matter(REPOSITORY / "README.md")
    with pytest.raises(SystemExit, match=said):
        assembling.check_front_matter(settings | change, REPOSITORY / "requirements.txt")


# Below a path


@pytest.fixture(scope="module")
def below_a_path() -> Iterator[str]:
    with (
        serving(ScriptedEngine([ScriptedReply("yes")])) as address,
        reverse_proxy(address, "/on/voice") as below,
    ):
        yield below


def test_everything_is_found_below_a_path(below_a_path: str) -> None:
    with httpx.Client(base_url=f"http://{below_a_path}", trust_env=False) as client:
        page = client.get("/").text
        assert f'"root":"http://{below_a_path}"' in page
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/live/main.js").status_code == 200
        assert client.get("/samples/samples.json").status_code == 200
        assert client.get("/theme.css").status_code == 200
    origin = Origin(f"http://{below_a_path.partition('/')[0]}")
    with connect(f"ws://{below_a_path}/v1/realtime", origin=origin, proxy=None) as socket:
        assert json.loads(socket.recv())["type"] == "session.created"


def test_the_page_works_below_a_path(below_a_path: str, humming_browser: Browser) -> None:
    page = open_page(humming_browser, below_a_path, permissions=["microphone"])
    # A proxy may take the path off before anybody sees that its slash is missing.
    page.goto(f"http://{below_a_path}?from=link#there")
    page.wait_for_url(f"http://{below_a_path}/?from=link#there")
    missing: list[str] = []
    page.on("response", lambda got: missing.append(got.url) if got.status >= 400 else None)
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("LISTENING", timeout=60_000)
    assert missing == []
    page.context.close()


@pytest.mark.parametrize(
    ("prefix", "path", "root_path", "inner_path"),
    [
        ("/voice", "/health", "/voice", "/voice/health"),
        ("/voice/", "/voice/health", "/voice", "/voice/health"),
        ("", "/health", "", "/health"),
        ("//elsewhere.org", "/health", "", "/health"),
        ("/a b", "/health", "", "/health"),
    ],
)
def test_prefixes(prefix: str, path: str, root_path: str, inner_path: str) -> None:
    seen: dict[str, Any] = {}

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        await FastAPI()(scope, receive, send)

    TestClient(Prefixed(inner)).get(path, headers={"X-Forwarded-Prefix": prefix})
    assert (seen["root_path"], seen["path"]) == (root_path, inner_path)


def test_the_prefix_alone_leads_to_the_page() -> None:
    prefixed = TestClient(Prefixed(FastAPI()))
    headers = {"X-Forwarded-Prefix": "/voice"}
    answer = prefixed.get("/voice", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (308, "/voice/")


# Until the model is there


class Opening:
    """Opens an application when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_end = threading.Event()
        self.has_ended = threading.Event()
        self.report: Report | None = None
        self.is_asked = threading.Event()
        self.num_lives = 0
        self._error = error

    def __call__(self, report: Report) -> FastAPI:
        self.report = report
        self.is_asked.set()
        assert self.may_end.wait(60)
        if self._error is not None:
            raise self._error

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> Any:
            self.num_lives += 1
            yield
            self.num_lives -= 1

        app = FastAPI(lifespan=lifespan)
        app.get("/health")(lambda: {"status": "ok"})
        return app


def test_visitors_are_told_until_the_model_is_there() -> None:
    opening = Opening()
    starting = StartingApp(opening, STATIC_FOLDER, lambda _: opening.has_ended.set())
    with TestClient(starting) as client:
        assert opening.is_asked.wait(60)
        page = client.get("/")
        assert page.status_code == 200
        assert "live/starting.js" in page.text
        assert client.get("/live/starting.js").status_code == 200
        assert client.get("/samples/samples.json").status_code == 503
        health = client.get("/health")
        assert (health.status_code, health.headers["retry-after"]) == (503, "5")
        assert health.json()["phase"] == "loading"
        assert opening.report is not None
        opening.report(Progress("someone/speaker", DownloadPhase.DOWNLOADING, 3, 10))
        assert client.get("/health").json() == {
            "status": "starting",
            "phase": "downloading",
            "num_bytes": 3,
            "total_bytes": 10,
        }
        with client.websocket_connect("/v1/realtime") as socket:
            assert socket.receive_json()["error"]["code"] == "starting"
            assert socket.receive()["code"] == 1013
        opening.may_end.set()
        assert opening.has_ended.wait(60)
        assert client.get("/health").json() == {"status": "ok"}
        assert opening.num_lives == 1
    assert opening.num_lives == 0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_visitors_are_told_in_words(language: str) -> None:
    words = json.loads((STATIC_FOLDER / f"messages-{language}.json").read_text("utf-8"))
    for phase in (*DownloadPhase, LOADING):
        assert words[f"starting.{phase}"]


def test_who_leaves_meanwhile_stops_the_download() -> None:
    opening = Opening()
    starting = StartingApp(opening, STATIC_FOLDER, lambda _: opening.has_ended.set())
    with TestClient(starting):
        assert opening.is_asked.wait(60)
        opening.may_end.set()
        assert opening.has_ended.wait(60)
    assert opening.report is not None
    with pytest.raises(LeavingError):
        opening.report(Progress("someone/speaker", DownloadPhase.DOWNLOADING, 3, 10))


def test_a_model_that_cannot_be_opened_ends_the_server() -> None:
    def fail(_: Report) -> NoReturn:
        raise CheckpointError("there is no model someone/nobody")

    # Not in this thread: a browser's driver may have a loop here.
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(
            serve,
            fail,
            listen_on("127.0.0.1", 0),
            ServingOptions(),
            lambda: pytest.fail("it is open"),
        )
        with pytest.raises(CheckpointError, match="there is no model someone/nobody"):
            serving.result(60)


# Where it can be found


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "[2001:db8::7]"),
        ("voice.lan", "voice.lan"),
    ],
)
def test_the_address_that_is_told_is_one_that_is_served(host: str, place: str) -> None:
    assert page_address(host, 8000) == f"http://{place}:8000"


# Where it cannot serve


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("127.0.0.1", 0, "address already in use"),
        ("203.0.113.7", 7860, "requested address"),
        ("127.0.0.1", 70_000, "port must be 0-65535"),
    ],
)
def test_an_address_that_cannot_be_served_on_is_said_in_words(
    host: str, port: int, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port or taken.getsockname()[1]
        message = f"port {port} of {host} cannot be served on: .*{reason}.*--port or --host"
        with pytest.raises(SettingsError, match=message) as told:
            listen_on(host, port)
    assert str(told.value).count(host) == 1
