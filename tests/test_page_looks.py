"""How the page looks and is handled, in a real browser: what it shows is staged."""

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    expect,
)

from backend.model.checkpoint import Ability
from backend.protocol import Emotion
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from bench.gallery import read_scripts
from tests.browsing import WAIT_MS, part
from tests.looks import CONTRASTS, WORDS, english_of, unreadable
from tests.scripted import ScriptedCheckpoint, ScriptedEngine, ScriptedReply
from tests.serving import serving
from webui.bundling import STATIC_FOLDER

STAGED_LIVE = (Path(__file__).parent / "staged_live.js").read_text("utf-8")
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
SCENES = ["idle", "connecting", "queued", "listening", "speaking", "long", "cut"]
SCENES += ["recording", "reconnecting"]
DIALOGS = [
    ("openSettings", "settings"),
    ("record", "recordDialog"),
    ("openPrivacy", "privacy"),
    ("openRecordings", "recordingsDialog"),
]
PAGES = ["live.html", "replay.html"]
KIND = (
    Ability("orders", "2", "9", "9.", Emotion.HAPPY),
    Ability("phrases", "3", "8", "9.", Emotion.SURPRISE),
)
ABILITIES = (
    *KIND,
    Ability("digits", "0", "7", "7.", Emotion.NORMAL),
    Ability("sounds", "1", None, "8.", Emotion.HAPPY),
    Ability("phrases", "4", "6", "6.", Emotion.SAD),
    Ability("phrases", "5", "5", "5.", Emotion.URGENT),
)
SHORTEST_STRIP = 300
SMALL_WINDOWS = [(390, 844), (844, 390), (640, 400), (320, 640)]

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = ScriptedEngine([ScriptedReply("Yes.")])
    engine.checkpoint = ScriptedCheckpoint(abilities=ABILITIES)
    recordings = StoreOptions(tmp_path_factory.mktemp("recordings"))
    teaching = tmp_path_factory.mktemp("teaching")
    with serving(
        engine, options=ServingOptions(recordings=recordings, teaching=teaching)
    ) as address:
        yield address


@pytest.fixture
def visit(quiet_browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the page, without sound and server behind it, and shows a scene."""
    contexts: list[BrowserContext] = []

    def visit(scene: str = "speaking", **options: Any) -> Page:
        context = quiet_browser.new_context(**{"viewport": DESKTOP, "locale": "en-US", **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.route("**/live/main.js", lambda route: route.fulfill(path=STATIC_FOLDER / "main.js"))
        page.route(
            "**/live/live.js",
            lambda route: route.fulfill(body=STAGED_LIVE, content_type="text/javascript"),
        )
        page.goto(f"http://{address}/")
        page.wait_for_selector("[data-ready]")
        show(page, scene)
        return page

    yield visit
    for context in contexts:
        context.close()


def show(page: Page, scene: str) -> None:
    page.evaluate("scene => window.stage.show(scene)", scene)


def asked(page: Page) -> list[list[Any]]:
    """What the visitor has asked for so far: [[method, argument, ...], ...]."""
    calls: list[list[Any]] = page.evaluate("window.stage.asked")
    return calls


# Layout


# What stands beside each other on a page that has room for it, and what is outside its box.
PLACES = (".stage", ".controls", ".conversation", ".memory")
OVERFLOWING = """() => [...document.querySelectorAll('.page *')]
  .filter((part) => part.checkVisibility({ visibilityProperty: true }) &&
    getComputedStyle(part).overflowX === 'visible' && part.scrollWidth > part.clientWidth + 1 &&
    part.clientWidth > 1 && !part.closest('.face, .eagerness'))
  .map((part) => part.outerHTML.slice(0, 200))"""
SHIFTS = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => resolve(
    list.getEntries().reduce((sum, { value }) => sum + value, 0)
  )).observe({ type: 'layout-shift', buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(0)));
})"""
SIZE = "[document.scrollingElement.scrollWidth, document.scrollingElement.scrollHeight]"


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_one_screen_without_scrolling(visit: Visit, locale: str) -> None:
    page = visit("idle", locale=locale)
    for scene in SCENES:
        show(page, scene)
        for width, height in ((1280, 800), (1920, 1080)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(SIZE) == [width, height], scene
            strip = page.locator(part("strip")).bounding_box()
            assert strip is not None
            assert strip["height"] >= SHORTEST_STRIP
            for place in PLACES:
                box = page.locator(place).bounding_box()
                assert box is not None
                assert box["y"] + box["height"] <= height
            assert page.evaluate(OVERFLOWING) == [], scene


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_start_stop_and_state_are_always_in_view(visit: Visit, locale: str) -> None:
    """On telephones, upright and lying, and on a page at twice its size."""
    page = visit("idle", viewport=PHONE, locale=locale, has_touch=True)
    for scene in SCENES:
        show(page, scene)
        for width, height in SMALL_WINDOWS:
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(SIZE) == [width, height], (scene, width)
            for name in ("start", "state", "microphone", "stopReply", "typed", "strip"):
                expect(page.locator(part(name))).to_be_in_viewport(ratio=0.9)
            assert page.evaluate(OVERFLOWING) == [], (scene, width)
        # The conversation lies over the stage, below the word for what goes on.
        page.set_viewport_size(PHONE)
        page.click(part("openSide"))
        for name in ("start", "state", "turns" if scene == "speaking" else "closeSide"):
            expect(page.locator(part(name))).to_be_in_viewport(ratio=0.9)
        page.click(part("closeSide"))
        expect(page.locator(part("side"))).to_be_hidden()


def test_dialogs_and_abilities_fit_a_phone(visit: Visit) -> None:
    page = visit("idle", viewport=PHONE, has_touch=True)
    page.click(part("askAbilities"))
    expect(page.locator(part("closeAbilities"))).to_be_in_viewport()
    expect(page.locator(part("state"))).to_be_in_viewport()
    page.keyboard.press("Escape")
    for opener, name in DIALOGS[:3]:
        if opener == "openPrivacy":
            page.click(part("openSide"))
        page.click(part(opener))
        dialog = page.get_by_role("dialog")
        assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        box = dialog.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        page.click(f"{part(name)} .dialog-head button")


def test_nothing_moves_but_what_happens(visit: Visit) -> None:
    page = visit("idle")
    names = ("start", "record", "hold", "stopReply", "file", "typed", "state", "strip")
    corners = "part => [part.getBoundingClientRect().x, part.getBoundingClientRect().y]"

    def places() -> list[list[float]]:
        return [page.locator(part(name)).evaluate(corners) for name in names]

    before = places()
    for scene in ("connecting", "speaking", "cut", "recording", "queued"):
        show(page, scene)
        assert places() == before, scene
    page.click(part("speakReplies"))
    assert places() == before
    assert page.evaluate(SHIFTS) < 0.02


def test_sample_session_plays_by_itself_until_a_conversation_begins(visit: Visit) -> None:
    page = visit("idle")
    expect(page.locator(part("sampleNote"))).to_be_visible()
    expect(page.locator(part("bubble"))).to_have_text(re.compile("^Coming up"))
    expect(page.locator(part("face"))).to_have_attribute("data-emotion", "happy")
    expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
    show(page, "connecting")
    expect(page.locator(part("sampleNote"))).to_be_hidden()
    expect(page.locator(part("bubble"))).to_be_hidden()
    assert page.evaluate("window.stage.panel.strip.conversation") is None


def test_sample_session_stands_still_where_motion_is_not_wanted(visit: Visit) -> None:
    page = visit("idle", reduced_motion="reduce")
    expect(page.locator(part("bubble"))).to_be_visible()
    seconds = "window.stage.panel.strip.conversation.seconds"
    before = page.evaluate(seconds)
    page.evaluate("new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))")
    assert page.evaluate(seconds) == before


def test_suggestions_are_kind_and_are_said_when_they_are_chosen(visit: Visit) -> None:
    page = visit("idle")
    tries = page.locator(part("tries")).get_by_role("button")
    texts = [text.strip("“”") for text in tries.all_text_contents()]
    assert texts
    assert set(texts) <= {ability.example for ability in KIND}
    tries.first.click()
    assert asked(page) == [["sendText", texts[0]]]


def test_face_rises_with_the_chance_and_stays_up_while_it_speaks(visit: Visit) -> None:
    page = visit("speaking")
    height = """() => {
      const { strip } = window.stage.panel;
      strip.drawNow();
      return new DOMMatrix(strip.face.element.style.transform).f;
    }"""
    speaking = page.evaluate(height)
    assert speaking == pytest.approx(page.evaluate("window.stage.panel.strip.y(0.97)"), abs=0.1)
    page.evaluate("window.stage.panel.strip.conversation.turns.last.endSeconds = 28")
    assert page.evaluate(height) == pytest.approx(
        page.evaluate("window.stage.panel.strip.y(0.02)"), abs=0.1
    )


def test_dotted_line_can_be_drawn(visit: Visit) -> None:
    page = visit("speaking")
    box = page.locator(part("eagerness")).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 24)
    page.mouse.up()
    threshold = page.evaluate("window.stage.panel.strip.threshold")
    assert 0.55 < threshold < 0.9
    moved = page.locator(part("eagerness")).bounding_box()
    assert moved is not None
    assert moved["y"] == pytest.approx(box["y"] - 24, abs=8)  # it goes in steps


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visit: Visit, theme: str) -> None:
    page = visit("idle", color_scheme=theme)
    axe = Axe()
    for scene in ("idle", "speaking", "queued"):
        show(page, scene)
        found = axe.run(page, ".page").response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], scene


TAUGHT = {"emotion": "happy", "text": "Someone is at the door."}
COMPARISON = {
    "counts": {
        name: {"clips": 1, "before": before, "after": 1}
        for name, before in (("takes", 0), ("known", 1))
    },
    "takes": [
        {
            "name": "doorbell-3.wav",
            "wanted": TAUGHT,
            "before": {"probabilities": [0.01, 0.2, 0.02], "replies": []},
            "after": {"probabilities": [0.01, 0.97, 0.02], "replies": [{"chunk": 1, **TAUGHT}]},
        }
    ],
    "known": [],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_teaching_shows_takes_and_what_came_of_them(visit: Visit, theme: str) -> None:
    page = visit("idle", viewport=PHONE, color_scheme=theme, has_touch=True)
    take = {"audio_path": "1.wav", "assistant": TAUGHT["text"], "emotion": "happy", "seconds": 1.2}
    learning = {"share": 0.4, "error": None, "is_running": True}
    state: dict[str, Any] = {"takes": [take], "job": learning}
    state |= {"is_learnt": False, "is_in_use": False, "is_newest_in_use": False}
    page.route("**/v1/teaching", lambda route: route.fulfill(json=state))
    page.route("**/v1/teaching/comparison", lambda route: route.fulfill(json=COMPARISON))
    page.click(part("askAbilities"))
    page.click(part("openTeaching"))
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("progressbar")).to_have_attribute("value", "0.4")
    expect(dialog.get_by_text("Takes: 1")).to_be_visible()
    state |= {"job": learning | {"share": 1.0, "is_running": False}, "is_learnt": True}
    expect(dialog.get_by_text("1 of 1 right, 0 before")).to_be_visible()
    expect(dialog.get_by_role("button", name="Use what it learnt")).to_be_enabled()
    expect(dialog.get_by_role("button", name="Go back")).to_be_disabled()
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    assert page.evaluate(OVERFLOWING) == []
    assert unreadable(page.evaluate(CONTRASTS)) == []
    found = Axe().run(page, ".page").response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


# Colours


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_is_readable(visit: Visit, theme: str) -> None:
    page = visit("idle", color_scheme=theme)
    found = page.evaluate(CONTRASTS)
    for scene in SCENES[1:]:
        show(page, scene)
        found += page.evaluate(CONTRASTS)
    for opener, dialog in DIALOGS:
        page.click(part(opener))
        found += page.evaluate(CONTRASTS)
        page.click(f"{part(dialog)} .dialog-head button")
    page.click(part("askAbilities"))
    found += page.evaluate(CONTRASTS)
    assert len(found) > 300
    assert unreadable(found) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_emotions_are_readable_and_have_a_word_and_a_face(visit: Visit, theme: str) -> None:
    page = visit("idle", color_scheme=theme)
    faces = set()
    for emotion in Emotion:
        name = emotion.value
        page.evaluate("name => window.stage.panel.showState('speaking', name)", name)
        expect(page.locator(part("emotion"))).to_have_text(name)
        faces.add(page.locator(part("face")).locator("path").first.get_attribute("d"))
        assert unreadable(page.evaluate(CONTRASTS)) == []
    assert len(faces) == len(Emotion)


# Languages


class _Words(HTMLParser):
    """Texts and spoken attributes that are written into markup itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found += [data.strip()] if data.strip() else []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        spoken = ("aria-label", "title", "placeholder", "alt", "aria-valuetext")
        self.found += [value or "" for name, value in attrs if name in spoken]


def test_markup_holds_no_words() -> None:
    for name in PAGES:
        words = _Words()
        words.feed((STATIC_FOLDER / name).read_text("utf-8"))
        assert set(words.found) <= {"Audio-Interaction Live", "Esc", "--no-recordings"}, name


def test_nothing_stays_english_in_chinese(visit: Visit) -> None:
    page = visit("idle")
    page.click(part("language"))
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.click(part("askAbilities"))
    found = page.evaluate(WORDS)
    for scene in SCENES[1:]:
        show(page, scene)
        found += page.evaluate(WORDS)
    assert english_of(found) == []
    # And back: what was shown in Chinese is written again, but for what was announced.
    page.evaluate("window.stage.panel.announce('')")
    page.click(part("language"))
    left = [words for words in page.evaluate(WORDS) if re.search("[\u4e00-\u9fff]", words)]
    assert set(left) == {"中文"}


def test_language_is_the_browsers_and_then_the_visitors(visit: Visit) -> None:
    page = visit("idle", locale="zh-TW")
    expect(page.locator(part("start"))).to_have_text("开始听")
    page.click(part("language"))
    expect(page.locator(part("start"))).to_have_text("Start listening")
    page.reload()
    page.wait_for_selector("[data-ready]")
    expect(page.locator(part("start"))).to_have_text("Start listening")
    assert page.evaluate("document.documentElement.lang") == "en"


# Keyboard and screen reader


def test_everything_is_reached_by_keyboard_with_visible_focus(visit: Visit) -> None:
    page = visit("speaking")
    reached = []
    page.evaluate("document.body.focus()")
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
              const { activeElement: element } = document;
              const { outlineStyle, outlineWidth } = getComputedStyle(element);
              return [element.dataset.part, outlineStyle === 'none' ? 0 : parseFloat(outlineWidth)];
            }"""
        )
        if name is not None:
            assert outline >= 2, name
            reached.append(name)
    expected = ["askAbilities", "openRecordings", "language", "openSettings", "strip", "eagerness"]
    expected += [
        "start",
        "microphone",
        "hold",
        "stopReply",
        "speakReplies",
        "record",
        "tab",
        "file",
    ]
    expected += ["typed", "clearTurns", "turns", "openPrivacy"]
    assert reached[: len(expected)] == expected


def test_space_talks_unless_something_else_wants_it(visit: Visit) -> None:
    page = visit("speaking")
    page.keyboard.down(" ")
    page.keyboard.down(" ")  # repeats while it is held
    page.keyboard.up(" ")
    assert asked(page) == [["holdToTalk", True], ["holdToTalk", False]]
    page.locator(part("microphone")).focus()
    page.keyboard.press(" ")
    assert asked(page)[2:] == [["toggleMute"]]
    page.click(part("microphone"))  # a click leaves the keys to talking
    page.keyboard.press(" ")
    assert asked(page)[3:] == [["toggleMute"], ["holdToTalk", True], ["holdToTalk", False]]
    page.locator(part("typed")).press_sequentially("a b")
    expect(page.locator(part("typed"))).to_have_value("a b")
    assert len(asked(page)) == 6
    page.locator(part("hold")).focus()
    page.keyboard.press("Enter")
    assert asked(page)[6:] == [["holdToTalk", True], ["holdToTalk", False]]


def test_hold_button_talks_while_it_is_held(visit: Visit) -> None:
    page = visit("speaking")
    page.locator(part("hold")).hover()
    page.mouse.down()
    assert asked(page) == [["holdToTalk", True]]
    page.mouse.move(10, 10)
    page.mouse.up()
    assert asked(page) == [["holdToTalk", True], ["holdToTalk", False]]


def test_escape_closes_what_is_open_and_else_stops_the_reply(visit: Visit) -> None:
    page = visit("speaking")
    dialogs = [("openSettings", "settings"), ("record", "recordDialog"), ("openPrivacy", "privacy")]
    for opener, opened in [*dialogs, ("askAbilities", "abilities")]:
        page.click(part(opener))
        expect(page.locator(part(opened))).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(part(opened))).to_be_hidden()
    assert asked(page) == []
    page.keyboard.press("Escape")
    assert asked(page) == [["stopReply"]]


def test_escape_that_closes_an_input_method_s_candidates_stops_nothing(visit: Visit) -> None:
    page = visit("speaking")
    page.locator(part("typed")).evaluate(
        """typed => typed.dispatchEvent(
          new KeyboardEvent('keydown', { key: 'Escape', isComposing: true, bubbles: true }))"""
    )
    assert asked(page) == []


def test_controls_ask_for_what_they_say(visit: Visit) -> None:
    page = visit("speaking")
    for name in ("start", "microphone", "stopReply"):
        page.click(part(name))
    page.fill(part("typed"), "  hello there ")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="A dog barking", exact=True).click()
    page.get_by_role("button", name="Seven", exact=True).click()
    page.set_input_files(
        part("chosenFile"), {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"a"}
    )
    names = [name for name, *_ in asked(page)]
    assert names[:4] == ["startOrStop", "toggleMute", "stopReply", "sendText"]
    assert asked(page)[3] == ["sendText", "hello there"]
    expect(page.locator(part("turns")).locator("li").last).to_contain_text("you typedhello there")
    assert names[4:] == ["playSound", "playSample", "playFile"]
    expect(page.locator(part("typed"))).to_have_value("")
    show(page, "listening")
    page.get_by_role("button", name="Stop 1.wav").click()
    assert asked(page)[-1] == ["stopPlaying"]
    show(page, "queued")
    page.get_by_role("button", name="Leave the queue").click()
    assert asked(page)[-1] == ["leaveQueue"]


def test_file_can_be_dropped_anywhere(visit: Visit) -> None:
    page = visit("idle")
    page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(['a'], 'a.wav', { type: 'audio/wav' }));
          const drag = (name) => document.querySelector('h1').dispatchEvent(
            new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true }));
          drag('dragover');
          window.wasShown = !document.querySelector('[data-part=drop]').hidden;
          drag('drop');
        }"""
    )
    assert page.evaluate("window.wasShown")
    expect(page.locator(part("drop"))).to_be_hidden()
    assert [name for name, *_ in asked(page)] == ["playFile"]


def test_live_regions(visit: Visit) -> None:
    page = visit("queued")
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("Allow it beside the address")
    expect(page.get_by_role("status").filter(has_text="connection")).to_be_visible()
    page.evaluate("window.stage.panel.announce('happy: Yes.')")
    expect(page.get_by_role("status").filter(has_text="happy: Yes.")).to_have_count(1)


def test_controls_have_names(visit: Visit) -> None:
    page = visit("speaking")
    page.click(part("openSettings"))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas')]
          .filter((control) => !control.hidden && control.textContent.trim() === '' &&
            !control.labels?.length && !control.hasAttribute('aria-label'))
          .map((control) => control.outerHTML)"""
    )
    assert nameless == []
    expect(page.get_by_role("switch", name="Noise suppression")).to_have_attribute(
        "aria-checked", "false"
    )
    meter = page.locator(part("meter"))
    expect(meter).to_have_attribute("aria-valuetext", "1,392 of 4,096, 34 %")


def test_nothing_moves_by_itself_where_motion_is_not_wanted(visit: Visit) -> None:
    page = visit("speaking", reduced_motion="reduce")
    moving = page.evaluate(
        """() => [...document.querySelectorAll('.page *')].filter((element) => {
          const { animationName, transitionDuration } = getComputedStyle(element);
          return animationName !== 'none' || parseFloat(transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0
    # The strip moves on once in a chunk, not with every frame.
    offsets = page.evaluate(
        """() => {
          const { strip } = window.stage.panel;
          const offsets = [];
          for (let frame = 0; frame < 8; frame += 1) {
            strip.conversation.frameCaptured({ pcm: new Int16Array(800), peak: 0 }, 0);
            strip.drawNow();
            offsets.push(strip.offset);
          }
          return offsets;
        }"""
    )
    assert len(set(offsets)) == 1


# The strip


def test_chunk_is_heard_and_shows_its_numbers(visit: Visit) -> None:
    page = visit("speaking")
    strip, card = page.locator(part("strip")), page.locator(part("chunkCard"))
    spoken = page.evaluate(
        "window.stage.panel.strip.drawNow() ?? window.stage.panel.strip.x(62.5 * 0.4)"
    )
    strip.click(position={"x": spoken, "y": 80})
    assert asked(page) == [["hearChunk", 62]]
    for words in ("0:24.8 – 0:25.2", "97 %", "50 %", "spoke", "64 ms", "12 ms", "1,272"):
        expect(card).to_contain_text(words)
    strip.focus()
    page.keyboard.press("ArrowLeft")
    assert asked(page)[-1] == ["hearChunk", 61]
    expect(strip).to_have_attribute("aria-valuenow", "61")
    expect(strip).to_have_attribute("aria-valuetext", re.compile("kept silent"))
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    page.keyboard.press("End")
    assert asked(page)[-1] == ["hearChunk", 69]


# Rows of the canvas, from its bottom, in which the colour of the threshold lies between two places.
THRESHOLD_ROWS = """([from, until]) => {
  const { strip } = window.stage.panel;
  strip.drawNow();
  const [left, right] = [from, until].map((seconds) => Math.round(strip.x(seconds)));
  const height = Math.round(strip.bottom - strip.chanceTop - 2);
  const { data } = strip.context.getImageData(left, strip.chanceTop, right - left, height);
  const wanted = strip.colours.soft.match(/\\w\\w/g).map((channel) => parseInt(channel, 16));
  const rows = new Set();
  for (let i = 0; i < data.length; i += 4) {
    const isNear = wanted.every((channel, c) => Math.abs(channel - data[i + c]) < 60);
    if (data[i + 3] > 90 && isNear) rows.add(1 - Math.floor(i / 4 / (right - left)) / height);
  }
  const all = [...rows];
  return all.reduce((sum, row) => sum + row, 0) / all.length;
}"""


def test_slider_moves_the_threshold_and_history_stays(visit: Visit) -> None:
    page = visit("speaking")
    page.evaluate(
        """() => {
          const { panel, stagedConversation } = window.stage;
          panel.strip.show(stagedConversation(70, (chunk) => (chunk < 35 ? 0 : -1.5)));
        }"""
    )
    slider, output = page.get_by_role("slider", name="Eagerness"), page.locator(part("threshold"))
    expect(output).to_have_text("speaks above 50 %")
    assert page.evaluate(THRESHOLD_ROWS, [5.6, 8]) == pytest.approx(0.5, abs=0.05)
    assert page.evaluate(THRESHOLD_ROWS, [17.6, 20]) == pytest.approx(0.82, abs=0.05)
    slider.fill("-2")
    expect(output).to_have_text("speaks above 88 %")
    expect(slider).to_have_attribute("aria-valuetext", "shy 2, speaks above 88 %")
    assert page.evaluate("window.stage.panel.strip.threshold") == pytest.approx(0.88, abs=0.01)
    assert page.evaluate(THRESHOLD_ROWS, [5.6, 8]) == pytest.approx(0.5, abs=0.05)
    page.get_by_role("button", name="reset", exact=True).click()
    expect(output).to_have_text("speaks above 50 %")
    expect(slider).to_be_focused()


def test_strip_is_drawn_once_a_frame_and_sharp(visit: Visit) -> None:
    page = visit("speaking", device_scale_factor=2)
    times, width = page.evaluate(
        """async () => {
          const { strip } = window.stage.panel;
          await new Promise(requestAnimationFrame);
          let times = 0;
          const { drawNow } = strip;
          strip.drawNow = () => { times += 1; drawNow.call(strip); };
          for (let i = 0; i < 100; i += 1) strip.draw();
          await new Promise(requestAnimationFrame);
          await new Promise(requestAnimationFrame);
          return [times, strip.canvas.width / strip.canvas.clientWidth];
        }"""
    )
    assert times == 1
    assert width == pytest.approx(2, rel=0.01)


# What the strip shows, once it is drawn: from when, until when, and whether it goes along with now.
SHOWN = """() => {
  const { strip } = window.stage.panel;
  strip.drawNow();
  return [strip.start, strip.end, !strip.part.isWalked];
}"""


def test_strip_is_walked_back_by_wheel_hand_and_keys(visit: Visit) -> None:
    page = visit("speaking")
    page.evaluate("window.stage.panel.strip.show(window.stage.stagedConversation(300))")
    start, end, goes_along = page.evaluate(SHOWN)
    assert (end, goes_along) == (120, True)
    strip = page.locator(part("strip"))
    box = strip.bounding_box()
    assert box is not None
    x, y = box["x"] + 400, box["y"] + 100
    page.mouse.move(x, y)
    page.mouse.wheel(0, -900)
    page.wait_for_function("window.stage.panel.strip.part.isWalked")
    wheeled, _, goes_along = page.evaluate(SHOWN)
    assert wheeled == pytest.approx(start - 30, abs=1)
    assert not goes_along
    page.mouse.down()
    page.mouse.move(x + 300, y, steps=4)
    page.mouse.up()
    drawn, _, _ = page.evaluate(SHOWN)
    assert drawn == pytest.approx(wheeled - 10, abs=1)
    assert asked(page) == []  # no chunk was chosen by that
    page.get_by_role("button", name="Further away").click()
    further, until, _ = page.evaluate(SHOWN)
    assert until - further > 40
    page.get_by_role("button", name="Back to now").click()
    assert page.evaluate(SHOWN)[1:] == [120, True]
    strip.focus()
    page.keyboard.press("Home")  # what is chosen is in view
    assert page.evaluate(SHOWN)[0] == 0
    assert asked(page) == [["hearChunk", 0]]
    # The overview leads anywhere.
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 8)
    start, end, _ = page.evaluate(SHOWN)
    assert start < 60 < end


def test_strip_draws_nothing_that_is_out_of_view(visit: Visit) -> None:
    page = visit("speaking")
    page.evaluate("window.stage.panel.strip.show(window.stage.stagedConversation(3000))")
    page.evaluate(SHOWN)
    bars = page.evaluate(
        """() => {
          const { strip } = window.stage.panel;
          let bars = 0;
          const { fillRect } = strip.context;
          strip.context.fillRect = (...place) => {
            bars += 1;
            fillRect.apply(strip.context, place);
          };
          strip.part.walkTo(600);
          strip.drawNow();
          return bars;
        }"""
    )
    assert bars < 400


# The conversation and the rest


def test_conversation_says_what_happened(visit: Visit) -> None:
    page = visit("speaking")
    rows = page.locator(part("turns")).locator("li")
    expect(rows).to_have_count(7)
    expect(rows.first).to_contain_text("unprompted")
    # What the visitor said stands before what answers it, and can be heard again.
    rows.nth(1).get_by_role("button", name="Hear what you said at 0:08, 1.4 s").click()
    assert asked(page) == [["hearAgain"]]
    cut = rows.nth(4)
    expect(cut).to_contain_text("cut off by you after 0.9 s")
    expect(cut).to_contain_text("silent in 140 ms")
    expect(cut.locator("s")).to_have_text(" say jarvis?")
    bar = cut.get_by_role("img")
    expect(bar).to_have_attribute(
        "aria-label", "after you stopped: decided 326 ms, first text 339 ms, first sound 420 ms"
    )
    widths = bar.locator("i").evaluate_all(
        "segments => segments.map((segment) => segment.style.width)"
    )
    assert [float(width.removesuffix("%")) for width in widths] == pytest.approx([32.6, 1.3, 8.1])
    expect(page.locator(part("latencies"))).to_have_text("p50 331 ms · p95 430 ms")


def test_words_on_the_stage_follow_the_voice(visit: Visit) -> None:
    page = visit("long")
    reply = page.locator(part("reply"))
    expect(reply.locator("s")).to_have_text("")
    said_until = page.evaluate(
        """(said) => {
          const { panel } = window.stage;
          panel.showPlayback(Object.assign(panel.stage.shownTurn, { saidText: said }));
          const [place] = document.querySelector('[data-part=reply] s').getClientRects();
          const box = panel.stage.replyLine.getBoundingClientRect();
          return (place.top - box.top) / box.height;
        }""",
        "words " * 250,
    )
    expect(reply.locator("s")).to_have_text(re.compile(f"^{'words ' * 250}$"))
    assert said_until == pytest.approx(0.5, abs=0.05)
    assert unreadable(page.evaluate(CONTRASTS)) == []


def test_long_conversation_stays_light_and_where_it_is_read(visit: Visit) -> None:
    page = visit("speaking")
    rows, moved = page.evaluate(
        """() => {
          const { panel, stagedConversation } = window.stage;
          const turn = stagedConversation().turns.get(0);
          const list = document.querySelector('[data-part=turns]');
          for (let number = 10; number < 300; number += 1) panel.showTurn({ ...turn, number });
          list.scrollTop = 200;
          const read = list.children[5];
          const top = read.getBoundingClientRect().top;
          panel.showTurn({ ...turn, number: 300 });
          return [list.children.length, read.getBoundingClientRect().top - top];
        }"""
    )
    assert rows == 200
    assert moved == pytest.approx(0, abs=1)


def test_page_says_what_leaves_the_machine(visit: Visit) -> None:
    page = visit("speaking")
    leaves, note = page.locator(part("leaves")), page.locator(part("speakNote"))
    expect(leaves).to_contain_text("nowhere else")
    speak = page.get_by_role("switch", name="Voice", exact=True)
    speak.click()
    expect(speak).to_have_attribute("aria-checked", "true")
    expect(note).to_contain_text("Microsoft")
    expect(leaves).to_contain_text("may go to Microsoft")
    page.click(part("openSettings"))
    page.get_by_label("Voice", exact=True).select_option("espeak:en-us")
    expect(page.get_by_label("Voice", exact=True)).not_to_contain_text("once it is connected")
    page.click(f"{part('settings')} .dialog-head button")
    expect(note).to_contain_text("nothing leaves")
    expect(leaves).to_contain_text("nowhere else")


def test_gallery_is_on_the_first_screen(visit: Visit) -> None:
    page = visit("idle")
    cards = page.locator(part("gallery")).get_by_role("link")
    expect(cards).to_have_count(len(read_scripts()))
    form = page.locator(part("say")).bounding_box()
    assert form is not None
    for card in cards.all():
        box = card.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= form["y"]
    expect(cards.first).to_contain_text("A coffee order")
    expect(cards.first).to_have_attribute("href", re.compile(r"/live/replay.html#gallery=order$"))
    page.click(part("language"))
    expect(cards.first).to_contain_text("点一杯咖啡")
    # A conversation that goes on is not left for one of them.
    show(page, "connecting")
    expect(cards.first).to_have_attribute("target", "_blank")


def test_recording_is_asked_for_in_words_and_shown_all_the_while(visit: Visit) -> None:
    page = visit("speaking")
    foot = page.locator(part("recordedNow"))
    expect(foot).to_have_text("Not recorded.")
    page.get_by_role("button", name="Record", exact=True).click()
    dialog = page.get_by_role("dialog", name="Record a conversation")
    expect(dialog).to_contain_text("The conversation that goes on now ends")
    page.get_by_role("button", name="Do not record").click()
    assert asked(page) == []
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_label("Title").fill(" Mine ")
    page.keyboard.press("Enter")
    assert asked(page) == [["startRecording", "Mine"]]
    show(page, "recording")
    expect(page.locator(part("recordingLight"))).to_have_text("recording 1:15")
    expect(foot).to_have_text("Being recorded.")
    page.get_by_role("button", name="Stop recording, 1:15").click()
    assert asked(page)[1:] == [["stopRecording"]]
    page.set_viewport_size(PHONE)
    expect(page.locator(part("recordingLight"))).to_be_in_viewport()


def test_what_was_said_stays_when_another_conversation_begins(visit: Visit) -> None:
    page = visit("speaking")
    rows = page.locator(part("turns")).locator("li")
    page.evaluate("window.stage.panel.turns.begin()")
    expect(rows).to_have_count(8)
    expect(rows.last).to_contain_text("A new conversation")
    page.evaluate(
        """() => {
          const { panel, stagedConversation } = window.stage;
          panel.showTurn(stagedConversation().turns.get(0));
        }"""
    )
    expect(rows).to_have_count(9)  # its first reply is not the other's
    page.click(part("language"))
    expect(rows.nth(7)).to_contain_text("新的对话")
    page.click(part("clearTurns"))
    expect(rows).to_have_count(0)
    expect(page.locator(part("gallery"))).to_be_visible()


def test_messages_can_be_dismissed(visit: Visit) -> None:
    page = visit("queued")
    for name, close in (("alert", "closeAlert"), ("notice", "closeNotice")):
        page.click(part(close))
        expect(page.locator(part(name))).to_be_hidden()
        expect(page.locator(part(close))).to_be_hidden()


def test_muted_microphone_is_called_so(visit: Visit) -> None:
    page = visit("speaking")
    expect(page.get_by_role("button", name="Mute", exact=True)).to_be_visible()
    page.evaluate("window.stage.panel.showMicrophone(true, true)")
    expect(page.get_by_role("button", name="Unmute", exact=True)).to_be_visible()


def test_settings_last_and_reset(visit: Visit) -> None:
    page = visit("speaking")
    page.click(part("openSettings"))
    page.get_by_role("switch", name="Noise suppression").click()
    page.get_by_role("textbox", name="Access key").fill("secret")
    page.get_by_label("Temperature").fill("0.5")
    top_k = page.get_by_label("Top-k")
    top_k.fill("0")
    restart = page.get_by_role("button", name="Start a new one")
    expect(restart).to_be_visible()  # a key is for a new conversation
    top_k.blur()
    expect(top_k).to_have_attribute("aria-invalid", "true")
    restart.click()
    assert asked(page) == [["startOrStop"], ["startOrStop"]]
    kept = json.loads(page.evaluate("JSON.stringify({ ...localStorage })"))
    kept = json.loads(kept["audio-interaction-live"])
    assert (kept["noiseSuppression"], kept["temperature"], kept["topK"]) == (True, 0.5, None)
    assert "secret" not in json.dumps(kept)
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.click(part("openSettings"))
    suppression = page.get_by_role("switch", name="Noise suppression")
    expect(suppression).to_have_attribute("aria-checked", "true")
    expect(page.get_by_role("textbox", name="Access key")).to_have_value("secret")
    page.get_by_role("button", name="Reset all").click()
    expect(suppression).to_have_attribute("aria-checked", "false")
    expect(page.get_by_label("Temperature")).to_have_value("")


def test_device_that_is_gone_stays_chosen_until_another_is(visit: Visit) -> None:
    page = visit("idle")
    page.evaluate(
        "localStorage.setItem('audio-interaction-live', JSON.stringify({ inputDevice: 'gone' }))"
    )
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.click(part("openSettings"))
    microphones = page.get_by_label("Microphone", exact=True)
    expect(microphones.locator("option")).to_have_text(
        ["The browser’s choice", "Desk microphone", "The one chosen before, not connected"]
    )
    expect(microphones).to_have_value("gone")
    # It comes while the settings are open, and another goes.
    page.evaluate(
        """() => {
          window.stage.inputs.splice(0, 1, { id: 'gone', label: 'Headset' });
          navigator.mediaDevices.dispatchEvent(new Event('devicechange'));
        }"""
    )
    expect(microphones.locator("option")).to_have_text(["The browser’s choice", "Headset"])
    expect(microphones).to_have_value("gone")
    microphones.select_option("The browser’s choice")
    kept = json.loads(page.evaluate("localStorage.getItem('audio-interaction-live')"))
    assert kept["inputDevice"] == ""


def test_settings_say_what_a_conversation_brings_and_what_to_do_about_echoes(visit: Visit) -> None:
    page = visit("idle")
    page.click(part("openSettings"))
    later = page.get_by_label("Voice", exact=True).locator("option").last
    expect(later).to_have_text("The server’s voices can be chosen once it is connected.")
    expect(later).to_be_disabled()
    page.get_by_role("button", name="Check for echo").click()
    expect(page.get_by_role("dialog")).to_contain_text("Fine: what comes back is -62 dB")
