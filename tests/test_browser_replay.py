"""The replay page, over the gallery's sessions: nothing here needs a model."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Download,
    Page,
    Route,
    expect,
)

from backend.config import CHUNK_SECONDS
from backend.recordings.reader import SessionFile
from backend.recordings.transcript import RecordedReply, read_transcript
from backend.serving.process import ServingOptions
from bench.gallery import FOLDER
from tests.browsing import WAIT_MS, open_page, part
from tests.looks import CONTRASTS, WORDS, english_of, unreadable
from tests.reverse_proxy import reverse_proxy
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
NAME = "wake-word"
"""The session that most tests open: four replies in 20 s."""
PREFIX = "/some/where"

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(ScriptedEngine([ScriptedReply("Yes.")])) as address:
        yield address


@pytest.fixture(scope="module")
def replies() -> list[RecordedReply]:
    """What the session holds: when a reply comes is for the weights that recorded it to say."""
    with SessionFile(FOLDER / f"{NAME}.aisession") as file:
        return read_transcript(file).replies


@pytest.fixture
def visit(quiet_browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the replay page."""
    contexts: list[BrowserContext] = []

    def visit(fragment: str = f"gallery={NAME}", site: str = address, **options: Any) -> Page:
        context = quiet_browser.new_context(**{"viewport": DESKTOP, "locale": "en-US", **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto(f"http://{site}/live/replay.html#{fragment}")
        page.wait_for_selector("[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()


def seconds(page: Page) -> float:
    """The place that is played."""
    place: float = page.locator(part("audio")).evaluate("audio => audio.currentTime")
    return place


def entries(page: Page) -> Any:
    return page.locator(part("turns")).locator("li")


def test_card_of_the_gallery_opens_the_replay_page(quiet_browser: Browser, address: str) -> None:
    page = open_page(quiet_browser, address, locale="en-US")
    # This server keeps nothing, and says so.
    expect(page.locator(part("record"))).to_be_hidden()
    page.click(part("openPrivacy"))
    expect(page.locator(part("privacyWhere"))).to_have_text("This server records nothing.")
    page.click(f"{part('privacy')} .dialog-head button")
    page.get_by_role("link", name=re.compile("A wake word and digits")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A wake word and digits")
    expect(page.locator(part("about"))).to_contain_text("seven, eight and five")
    expect(page.locator(part("facts"))).to_contain_text("embedded")
    page.get_by_role("link", name="Live page").click()
    expect(page.locator(part("start"))).to_be_visible()
    page.context.close()


def test_sound_strip_and_replies_go_in_step(visit: Visit) -> None:
    page = visit()
    clock, play = page.locator(part("clock")), page.locator(part("play"))
    expect(clock).to_have_text("0:00.0 / 0:20.0")
    expect(entries(page).locator(".ahead")).to_have_count(0)
    page.get_by_label("Speed").select_option("2")
    # It begins a second before the reply.
    entries(page).nth(1).get_by_role("button").click()
    expect(entries(page).nth(1)).to_have_attribute("aria-current", "true")
    expect(play).to_have_text("Pause")
    assert entries(page).last.locator(".ahead").count() > 0
    play.click()
    expect(play).to_have_text("Play")
    assert page.locator(part("audio")).evaluate("audio => audio.playbackRate") == 2
    page.locator(part("scrub")).fill("19.9")
    expect(entries(page).locator(".ahead")).to_have_count(0)
    play.click()
    expect(play).to_have_text("Play")  # it has come to the end
    expect(clock).to_have_text("0:20.0 / 0:20.0")
    assert page.evaluate("document.scrollingElement.scrollTop") == 0


def test_chunk_is_heard_and_shows_its_numbers(visit: Visit, replies: list[RecordedReply]) -> None:
    page = visit()
    strip, card = page.locator(part("strip")), page.locator(part("chunkCard"))
    box = strip.bounding_box()
    assert box is not None
    end = replies[1].seconds
    begin = end - CHUNK_SECONDS
    strip.click(position={"x": box["width"] * ((begin + end) / 2 / 20), "y": 80})
    for words in (f"0:{begin:04.1f} – 0:{end:04.1f}", "spoke", "logits: silence / speak", "50 %"):
        expect(card).to_contain_text(words)
    # A chunk before it, itself, and a chunk after it.
    expect(page.locator(part("play"))).to_have_text("Play")
    assert seconds(page) == pytest.approx(end + CHUNK_SECONDS, abs=0.25)
    strip.press("ArrowLeft")
    expect(card).to_contain_text("kept silent")
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_keys(visit: Visit, replies: list[RecordedReply]) -> None:
    page = visit()
    clock = page.locator(part("clock"))
    expect(clock).to_have_text("0:00.0 / 0:20.0")
    first, second = (reply.seconds for reply in replies[:2])
    steps = [("ArrowRight", 0.4), ("ArrowRight", 0.8), ("ArrowLeft", 0.4), ("ArrowDown", first)]
    steps += [("ArrowDown", second), ("ArrowUp", first), ("End", 20), ("Home", 0)]
    for key, place in steps:
        page.keyboard.press(key)
        assert seconds(page) == pytest.approx(place, abs=0.01)
    page.keyboard.press(">")
    expect(page.get_by_label("Speed")).to_have_value("1.25")
    page.keyboard.press(" ")
    expect(page.locator(part("play"))).to_have_text("Pause")
    page.keyboard.press(" ")
    expect(page.locator(part("play"))).to_have_text("Play")
    # Whoever writes is left alone.
    page.locator(part("forkPrompt")).fill("")
    page.locator(part("forkPrompt")).press_sequentially("a < b")
    expect(page.locator(part("forkPrompt"))).to_have_value("a < b")
    expect(page.get_by_label("Speed")).to_have_value("1.25")


def test_everything_can_be_downloaded(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    downloads = page.locator(part("downloads"))
    expect(downloads.get_by_role("link")).to_have_count(0)
    for name in ("Session file", "Page", "Stereo sound", "Transcript", "(.vtt)", "(.srt)"):
        download(page, name).save_as(tmp_path / "file")
        if name == "Session file":
            original = (FOLDER / f"{NAME}.aisession").read_bytes()
            assert (tmp_path / "file").read_bytes() == original
        assert (tmp_path / "file").stat().st_size > 0


def test_downloads_with_an_access_key_are_named_as_without(
    visit: Visit, quiet_browser: Browser, tmp_path: Path
) -> None:
    engine, options = ScriptedEngine([]), ServingOptions(access_key="wanted")
    knowing = "sessionStorage.setItem('audio-interaction-live', '{\"accessKey\": \"wanted\"}')"
    with serving(engine, options=options) as guarded, quiet_browser.new_context() as context:
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(knowing)
        page = context.new_page()
        page.goto(f"http://{guarded}/live/replay.html#gallery={NAME}")
        page.wait_for_selector("[data-ready]")
        with_key, path = download(page, "Transcript"), tmp_path / "transcript"
        with_key.save_as(path)
        assert path.stat().st_size > 0
    assert with_key.suggested_filename.endswith(".md")
    assert with_key.suggested_filename == download(visit(), "Transcript").suggested_filename


def download(page: Page, name: str) -> Download:
    downloads = page.locator(part("downloads"))
    downloads.locator("summary").click()
    with page.expect_download() as begun:
        downloads.get_by_role("link", name=name).click()
    return begun.value


def test_another_way_is_shown_beside_it(visit: Visit, address: str) -> None:
    page = visit()
    story = page.request.get(f"http://{address}/v1/gallery/{NAME}/story").json()
    story["forked_at_chunk"] = 15
    # It says something else at one place, and nothing at another.
    story["said"][1]["pieces"] = [[0.1, "You said eleven."]]
    del story["said"][3]
    asked: list[Any] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json)
        lines = [{"waiting": 1}, {"chunk": 25, "num_chunks": 50}, {"story": story}]
        route.fulfill(body="".join(json.dumps(line) + "\n" for line in lines))

    page.route("**/forks", answer)
    page.locator(part("scrub")).fill("6.2")
    page.get_by_role("button", name="Where it is now").click()
    expect(page.locator(part("forkFromTime"))).to_have_text("0:06.0")
    page.locator("#fork-temperature").fill("0.8")
    page.locator("#fork-eagerness").fill("-2")
    # More than one of JavaScript's numbers holds, and no prompt at all.
    page.locator("#fork-seed").fill(str(2**63 - 1))
    prompt = page.locator(part("forkPrompt"))
    expect(prompt).to_have_value(story["settings"]["system_prompt"])
    prompt.fill("")
    page.get_by_role("button", name="Go another way").click()
    expect(page.locator(part("forkTitle"))).to_have_text("The other way, from 0:06.0 on")
    wanted = {"from_chunk": 15, "temperature": 0.8, "decision_bias": -2}
    assert asked == [wanted | {"seed": str(2**63 - 1), "system_prompt": ""}]
    rows = page.locator(part("forkRows")).locator("tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("You said seven.")
    expect(rows.nth(0)).to_contain_text("You said eleven.")
    expect(rows.nth(2)).to_contain_text("(silent)")
    expect(page.locator(f"{part('forkRows')} [data-differs]")).to_have_count(2)
    expect(page.locator(part("forkNote"))).to_contain_text("Differences: 2")
    page.locator(part("forkStrip")).press("End")
    expect(page.locator(part("forkCard"))).to_contain_text("kept silent")


def test_another_way_that_cannot_be_says_why(visit: Visit) -> None:
    page = visit()
    error = {"message": "busy", "code": "other_checkpoint"}
    page.route("**/forks", lambda route: route.fulfill(body=json.dumps({"error": error})))
    run = page.get_by_role("button", name="Go another way")
    run.click()
    expect(page.locator(part("forkNote"))).to_contain_text("with another model than this server")
    page.locator("#fork-from").fill("1000")
    run.click()
    expect(page.locator(part("forkResult"))).to_be_hidden()


def test_what_is_not_there_is_said(visit: Visit) -> None:
    page = visit("gallery=nothing")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator(part("recorded"))).to_be_hidden()
    cards = page.locator(part("gallery")).get_by_role("link")
    cards.first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("A coffee order")
    expect(page.locator(part("recorded"))).to_be_visible()


def test_fragment_that_names_no_kind_of_recording_names_nothing(visit: Visit) -> None:
    page = visit("constructor=x")
    expect(page.locator(part("gallery")).get_by_role("link").first).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_page_works_below_a_prefix_and_asks_nobody_else(visit: Visit, address: str) -> None:
    requests: list[str] = []
    with reverse_proxy(address, PREFIX) as site:
        page = visit(site=site)
        page.on("request", lambda request: requests.append(request.url))
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("A wake word and digits")
        page.locator(part("scrub")).fill("3")
        assert seconds(page) == pytest.approx(3, abs=0.01)
        host = site.removesuffix(PREFIX)
        links = page.locator("a").evaluate_all("links => links.map((link) => link.href)")
        page.context.close()
    assert {"replay.js", "health"} <= {url.rpartition("/")[2] for url in requests}
    assert [url for url in requests + links if not url.startswith(f"http://{host}{PREFIX}/")] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_is_readable(visit: Visit, theme: str) -> None:
    page = visit("gallery=conversation", color_scheme=theme)
    found = page.evaluate(CONTRASTS)
    page.locator(part("downloads")).locator("summary").click()
    page.locator(part("strip")).press("End")
    page.locator(part("scrub")).fill("16.5")
    found += page.evaluate(CONTRASTS)
    assert len(found) > 80
    assert unreadable(found) == []


def test_fits_a_phone_in_both_languages(visit: Visit) -> None:
    for fragment in ("gallery=conversation", ""):
        page = visit(fragment, viewport=PHONE, locale="zh-CN", has_touch=True)
        assert page.evaluate("document.scrollingElement.scrollWidth") == 390
        assert english_of(page.evaluate(WORDS)) == []
        page.click(part("language"))
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.evaluate("document.scrollingElement.scrollWidth") == 390
        left = [words for words in page.evaluate(WORDS) if re.search("[\u4e00-\u9fff]", words)]
        assert set(left) == {"中文"}


def test_controls_have_names_and_visible_focus(visit: Visit) -> None:
    page = visit()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas, progress')]
          .filter((control) => control.checkVisibility() && control.textContent.trim() === '' &&
            !control.labels?.length && !control.hasAttribute('aria-label'))
          .map((control) => control.outerHTML)"""
    )
    assert nameless == []
    page.evaluate("document.body.focus()")
    for _ in range(12):
        page.keyboard.press("Tab")
        outline = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert outline >= 2


@pytest.mark.parametrize(("suffix", "beginning"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_a_session_is_saved_as_one_picture(
    visit: Visit, tmp_path: Path, suffix: str, beginning: bytes
) -> None:
    page = visit("gallery=order")
    page.locator(part("downloads")).locator("summary").click()
    with page.expect_download() as download:
        page.get_by_role("link", name=f"Picture (.{suffix})").click()
    assert download.value.suggested_filename == f"A coffee order.{suffix}"
    download.value.save_as(tmp_path / "picture")
    content = (tmp_path / "picture").read_bytes()
    assert content.startswith(beginning)
    assert suffix == "png" or b"Coming up:" in content
