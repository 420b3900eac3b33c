"""The local page, as Streamlit runs it, with a microphone and a loudspeaker that tests are."""

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from streamlit.testing.v1 import AppTest

from backend.audio import float_to_pcm16, read_audio
from client.address import ServerAddress
from client.audio_format import FRAME_SAMPLES
from client.conversation import Frame
from client.live import Live, LiveOptions
from client.messages import Language, words_of
from client.playback import PlaybackEvent, PlaybackReport
from client.portaudio import System, install_portaudio
from client.session import Phase
from client.words import Words
from tests.browsing import part
from tests.client_talking import FakeSoundCard
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine
from tests.serving import wait_until_free
from webui import local_panel

ENGLISH, CHINESE = words_of(Language.ENGLISH), words_of(Language.CHINESE)
PAGE = Path(__file__).parents[1] / "webui" / "local_app.py"
WAIT_SECONDS = 60.0
VOICE = np.concatenate([read_audio(SAMPLES / "digit_seven.ogg"), np.zeros(16_000, np.float32)])


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeSoundCard:
    card = FakeSoundCard()
    for module in ("client.live", "client.sound_card"):
        monkeypatch.setattr(f"{module}.SoundCard", lambda: card)
    return card


@pytest.fixture
def page() -> Iterator[AppTest]:
    """The page; what goes on in it ends with the test."""
    page = AppTest.from_file(str(PAGE), default_timeout=WAIT_SECONDS).run()
    yield page
    if page.button(key="start").label in (ENGLISH["stop"], CHINESE["stop"]):
        page.button(key="start").click().run()


@pytest.fixture
def panel(quiet_browser: Browser, page_files: str) -> Iterator[Page]:
    """An empty page beside the panel's files."""
    context = quiet_browser.new_context(locale="en-US")
    page = context.new_page()
    page.goto(f"http://{page_files}/health")
    page.set_content("<main id=now></main><main id=said></main>")
    yield page
    context.close()


SHOW = """async (told) => {
  const { show } = await import('/live/local-panel.js');
  const place = document.getElementById(told.view);
  const root = place.shadowRoot ?? place.attachShadow({ mode: 'open' });
  window.heard ??= [];
  await show(root, told, (chunk) => window.heard.push(chunk));
}"""


def spoken_live() -> Live:
    """A conversation in which something was typed, and its reply is being said."""
    live = Live(ServerAddress.parse("localhost"), LiveOptions())
    session = live.session
    sound = base64.b64encode(bytes(48_000)).decode()
    session.phase = Phase.OPEN
    for number in range(16):
        session.frame_captured(Frame(bytes(1600), 0.3, 0.1), number * 0.05, number * 0.05)
    session.send_text("What is <b>up</b>?", 0.8)
    capabilities = {"max_positions": 4096, "voices": []}
    metadata = {"chunk": 1, "seconds": 0.8, "emotion": "happy", "speech_end_seconds": 0.7}
    metadata |= {"speak_probability": 0.97, "speak_threshold": 0.5, "milliseconds": 12.4}
    reply = {"response_id": "r", "item_id": "i"}
    for event in (
        {"type": "session.created", "session": {"capabilities": capabilities}},
        {
            "type": "response.speak",
            "metadata": metadata | {"decision_ms": 64.2, "positions": 342},
            **reply,
        },
        {"type": "response.output_audio_transcript.delta", "delta": "Coming <up> now.", **reply},
        {
            "type": "response.output_audio.delta",
            "delta": sound,
            "sentence": "Coming <up> now.",
            "audio_start_ms": 0,
            **reply,
        },
    ):
        session.receive(event, 1.0)
    session.report(PlaybackReport(PlaybackEvent.STARTED, "r", 0.0, 1.1))
    session.report(PlaybackReport(PlaybackEvent.PROGRESS, "r", 600.0, 1.7))
    return live


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_panel_is_the_live_page_s(panel: Page, theme: str) -> None:
    live, words = spoken_live(), Words(Language.ENGLISH)
    style = {"language": "en", "theme": theme}
    told = [local_panel.now(live, words), local_panel.said(live, 1)]
    for view in told:
        panel.evaluate(SHOW, json.loads(json.dumps(view | style)))
    expect(panel.locator(part("state"))).to_have_text("SPEAKING")
    expect(panel.locator(part("emotion"))).to_have_text("happy")
    expect(panel.locator(part("reply"))).to_have_text("Coming <up> now.")
    expect(panel.locator(part("reply")).locator("s")).to_have_text(" <up> now.")
    rows = panel.locator(part("turns")).locator("li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("What is <b>up</b>?")
    expect(rows.last.get_by_role("img")).to_have_attribute(
        "aria-label", "after you typed it: decided 200 ms, first text 200 ms, first sound 300 ms"
    )
    expect(panel.locator(part("positions"))).to_have_text("342 of 4,096")
    ground = panel.locator(".page").first.evaluate("page => getComputedStyle(page).color")
    assert (ground == "rgb(241, 240, 237)") is (theme == "dark")
    # A chunk that is chosen shows its numbers, and is to be heard.
    panel.locator(part("strip")).focus()
    panel.keyboard.press("End")
    expect(panel.locator(part("chunkCard"))).to_contain_text("97 %")
    assert panel.evaluate("window.heard") == [1]
    # What has not changed stays as it is, in the other language too.
    panel.evaluate("document.querySelector('#said').shadowRoot.querySelector('li').id = 'read'")
    panel.evaluate(SHOW, json.loads(json.dumps(told[1] | style)))
    expect(panel.locator("#read")).to_have_count(1)
    panel.evaluate(SHOW, json.loads(json.dumps(told[0] | {"language": "zh", "theme": theme})))
    expect(panel.locator(part("state"))).to_have_text("正在说")


def has_button(page: AppTest, key: str) -> bool:
    return any(button.key == key for button in page.button)


def told(page: AppTest, key: str) -> dict[str, Any]:
    """What one part of its panel is told."""
    for element in page.get("bidi_component"):
        if element.proto.id.endswith(f"-{key}"):
            shown: dict[str, Any] = json.loads(element.proto.json)
            return shown
    return {}


def said(page: AppTest) -> list[str]:
    """What was said and typed."""
    entries = told(page, "said")["entries"]
    return [entry[kind]["text"] for entry in entries for kind in ("turn", "typed") if kind in entry]


def run_until(page: AppTest, condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        page.run()


def start(page: AppTest, address: str) -> None:
    page.text_input(key="server").set_value(address)
    page.button(key="start").click().run()
    run_until(page, lambda: told(page, "now")["state"] == "listening", "the beginning")


def test_conversation_goes_on_beside_the_page(
    engine: ScriptedEngine, address: str, card: FakeSoundCard, page: AppTest
) -> None:
    assert page.selectbox(key="microphone").options[:2] == ["the system’s choice", "built-in"]
    assert told(page, "now")["state"] == "idle"
    start(page, address)
    assert page.text_input(key="server").disabled
    assert card.microphone_of is not None
    for at in range(0, len(VOICE), FRAME_SAMPLES):
        card.microphone_of.take_in(float_to_pcm16(VOICE[at : at + FRAME_SAMPLES]), 0, {}, 0)
    run_until(page, lambda: "Coming <up>." in said(page), "the reply")
    run_until(page, lambda: told(page, "now")["emotion"] == "happy", "the face")
    strip = told(page, "now")["strip"]
    assert any(decision and decision["speaks"] for decision in strip["decisions"])
    assert max(strip["peaks"]) > 0.05
    page.toggle(key="muted").set_value(True).run()
    page.slider(key="bias").set_value(2.0).run()
    (session,) = engine.sessions
    run_until(page, lambda: session.settings.decision_bias == 2.0, "the change")
    page.button(key="start").click().run()
    assert page.button(key="start").label == "Start listening"
    assert "Coming <up>." in said(page)
    wait_until_free(engine)


def test_sample_plays_in_a_conversation_without_the_microphone(
    engine: ScriptedEngine, address: str, card: FakeSoundCard, page: AppTest
) -> None:
    page.text_input(key="server").set_value(address)
    page.button_group(key="sample").set_value("digit_seven").run()
    run_until(page, lambda: "Coming <up>." in said(page), "the reply")
    assert card.num_opened == 0
    page.button(key="use_microphone").click().run()
    run_until(page, lambda: card.num_opened == 1, "the microphone")
    assert not has_button(page, "use_microphone")


def test_page_changes_its_language_while_a_conversation_goes_on(
    address: str, card: FakeSoundCard, page: AppTest
) -> None:
    start(page, address)
    page.button_group(key="language").set_value(Language.CHINESE).run()
    assert told(page, "now")["language"] == "zh"
    assert page.button(key="start").label == "停止"
    assert page.text_input(key="server").value == address
    texts = [*page.markdown, *page.caption, *page.button, *page.toggle, *page.selectbox]
    labels = [getattr(element, "label", None) or element.value for element in texts]
    english = {text for text in ENGLISH.values() if " " in text}
    assert english.isdisjoint(labels)


def test_without_portaudio_it_says_how_to_get_it_and_takes_text(
    address: str, monkeypatch: pytest.MonkeyPatch, page: AppTest
) -> None:
    monkeypatch.setitem(sys.modules, "pyaudio", None)
    page.button(key="look_again").click().run()
    (warning,) = page.warning
    assert install_portaudio(System.this()) in warning.value
    start(page, address)
    page.chat_input(key="typed").set_value("What is it?").run()
    run_until(page, lambda: "Coming <up>." in said(page), "the reply")
    assert "What is it?" in said(page)


def test_server_that_is_not_there_is_said_with_the_command_for_one(
    card: FakeSoundCard, page: AppTest
) -> None:
    page.text_input(key="server").set_value("127.0.0.1:9")
    page.button(key="start").click().run()
    run_until(page, lambda: page.error, "the reason")
    assert "python app.py --port 9" in page.error[0].value
    run_until(page, lambda: page.button(key="start").label == ENGLISH["start"], "the end")
