"""The page that holds the model itself, from a file server, in Chromium."""

import functools
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, Playwright, Request, expect
from websockets.sync.client import connect

from backend.browser.page import assemble
from backend.config import EngineConfig
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.recordings.reader import SessionFile
from backend.recordings.records import DecisionRecord, TokenRecord
from backend.recordings.replay import Verifier
from tests.browsing import chromium, microphone_file, open_page, part, samples
from tests.serving import serving

VOICES = Path(__file__).parent / "page_engine" / "voices.js"
ORDER = "order_large_cappuccino_whole_milk.ogg"
SEVEN = "digit_seven.ogg"
BINARY_SUFFIXES = {".gz", ".png", ".ogg"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def static_folder(
    embedded_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("static") / "page"
    assemble(folder, embedded_checkpoint)
    return folder


@pytest.fixture
def static_address(static_folder: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(static_folder))
    server = ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def requests_of(page: Page) -> list[Request]:
    """All that the page asks for from now on."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    page.on("websocket", lambda _: pytest.fail("the page opened a socket"))
    return asked


def play(page: Page, name: str) -> None:
    """Let the model hear a sample."""
    (title,) = [sample["title"] for sample in samples() if sample["file"] == name]
    page.get_by_role("button", name=title, exact=True).click()


def test_what_is_said_is_answered_and_stays_in_the_browser(
    playwright: Playwright, static_address: str, tmp_path: Path
) -> None:
    with chromium(playwright, microphone_file(tmp_path, ORDER)) as browser:
        page = open_page(browser, static_address)
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        asked = requests_of(page)
        play(page, SEVEN)
        expect(page.locator(part("turns"))).to_contain_text("You said seven.")
        # Once the model is there: before, nothing would hear what the microphone says once.
        page.click(part("microphone"))
        expect(page.locator(part("turns"))).to_contain_text("cappuccino, whole milk.")
        expect(page.locator(part("emotion"))).to_have_text("happy")
        expect(page.locator(part("sent"))).to_have_text("Sent by this page: 0 bytes.")
        assert asked, "the model was fetched"
        for request in asked:
            assert request.method == "GET", request.url
            assert request.post_data is None
            assert request.url.startswith(f"http://{static_address}/")
        num_asked = len(asked)
        page.click(part("start"))
        expect(page.locator(part("start"))).to_have_text("Start listening")
        assert len(asked) == num_asked


def test_a_second_visit_needs_no_network(quiet_browser: Browser, static_address: str) -> None:
    page = open_page(quiet_browser, static_address)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("[data-ready]")
    play(page, SEVEN)
    expect(page.locator(part("turns"))).to_contain_text("You said seven.")


def test_a_recording_is_a_session_file_that_the_server_repeats(
    quiet_browser: Browser,
    static_address: str,
    embedded_checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    page = open_page(quiet_browser, static_address)
    page.click(part("record"))
    page.fill(part("recordName"), "Seven, please")
    page.get_by_role("button", name="Start recording").click()
    page.locator(part("eagerness")).fill("1")
    play(page, SEVEN)
    expect(page.locator(part("turns"))).to_contain_text("You said seven.")
    page.click(part("start"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the recording").click()
    path = tmp_path / "here.aisession"
    download.value.save_as(path)
    assert download.value.suggested_filename.endswith(".aisession")
    with SessionFile(path) as file:
        assert file.manifest.title == "Seven, please"
        assert file.is_complete
        records = list(file.records())
        texts = [record.text for record in records if isinstance(record, TokenRecord)]
        assert "".join(texts) == "You said seven."
        verifier = Verifier(embedded_checkpoint, file)
        num_verified = sum(1 for _ in verifier.verify())
    assert verifier.outcome.is_equal
    assert num_verified == sum(isinstance(record, DecisionRecord) for record in records)


def test_replies_are_said_by_a_voice_of_this_device(
    quiet_browser: Browser, static_address: str
) -> None:
    context = quiet_browser.new_context()
    context.add_init_script(path=VOICES)
    page = context.new_page()
    page.goto(f"http://{static_address}/")
    page.wait_for_selector("[data-ready]")
    page.click(part("speakReplies"))
    expect(page.locator(part("speakNote"))).to_have_text("This device’s own voice speaks.")
    play(page, SEVEN)
    expect(page.locator(part("turns"))).to_contain_text("You said seven.")
    page.wait_for_function("said.length === 1")
    assert page.evaluate("said") == [{"text": "You said seven.", "isLocal": True}]
    expect(page.locator(part("state"))).to_have_text("SPEAKING")
    page.keyboard.press("Escape")
    page.wait_for_function("speechSynthesis.isSilent")
    expect(page.locator(part("state"))).not_to_have_text("SPEAKING")
    context.close()


def test_who_waits_for_a_place_talks_in_the_page_and_moves_over(
    quiet_browser: Browser,
    embedded_checkpoint: Checkpoint,
    static_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = static_folder / "live" / "engine" / "built"

    async def make(folder: Path) -> None:
        shutil.copytree(built, folder, dirs_exist_ok=True)

    monkeypatch.setattr("backend.serving.page_engine.make", make)
    with (
        Engine(embedded_checkpoint, EngineConfig(num_slots=1)) as engine,
        serving(engine) as address,
        connect(f"ws://{address}/v1/realtime") as taken,
    ):
        assert json.loads(taken.recv())["type"] == "session.created"
        page = open_page(quiet_browser, address, locale="en-US")
        asked: list[Request] = []
        page.on("request", lambda request: asked.append(request))
        page.click(part("start"))
        expect(page.locator(part("reply"))).to_contain_text("You are number 1 in the queue.")
        offer = page.get_by_role("button", name="Talk here (12 MB)")
        expect(offer).to_be_visible()
        # What it costs is known, and nothing of it has been fetched before the visitor agrees.
        assert [it.url for it in asked if "/built/" in it.url] == [
            f"http://{address}/live/engine/built/files.json"
        ]
        offer.click()
        play(page, SEVEN)
        expect(page.locator(part("turns"))).to_contain_text("You said seven.")
        expect(page.locator(part("otherPlaceWords"))).to_contain_text("You are number 1")
        expect(page.locator(part("sent"))).to_have_text("Sent by this page: 0 bytes.")
        assert all(request.method == "GET" for request in asked)
        taken.close()
        # Nothing is being said: the server's place is taken at once.
        expect(page.locator(part("otherPlace"))).to_be_hidden()
        expect(page.locator(part("typed"))).to_be_visible()
        play(page, SEVEN)
        said = page.locator(part("turns")).get_by_text("You said seven.")
        expect(said).to_have_count(2)
        page.context.close()


def test_on_a_phone_without_what_only_a_server_has(
    quiet_browser: Browser, static_address: str
) -> None:
    page = open_page(quiet_browser, static_address, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.scrollingElement.scrollWidth") == 390
    expect(page.locator(part("start"))).to_be_visible()
    expect(page.locator(part("say"))).to_be_hidden()
    expect(page.locator(part("galleryTitle"))).to_be_hidden()
    page.click(part("openSettings"))
    expect(page.locator("#setting-seed")).to_be_visible()
    expect(page.locator("#setting-voice")).to_be_hidden()
    expect(page.locator("#setting-accessKey")).to_be_hidden()


def test_a_static_space_takes_the_folder(static_folder: Path) -> None:
    settings = yaml.safe_load((static_folder / "README.md").read_text("utf-8").split("---")[1])
    assert (settings["sdk"], settings["app_file"]) == ("static", "index.html")
    assert len(settings["short_description"]) <= 60
    tracked = (static_folder / ".gitattributes").read_text("utf-8")
    binary = {path.suffix for path in static_folder.rglob("*") if path.suffix in BINARY_SUFFIXES}
    assert all(f"*{suffix} filter=lfs" in tracked for suffix in binary)
