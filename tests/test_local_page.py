"""The local page, as Streamlit runs it, with a microphone and a loudspeaker that tests are."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from backend.audio import float_to_pcm16, read_audio
from client.audio_format import FRAME_SAMPLES
from client.messages import Language, words_of
from client.portaudio import System, install_portaudio
from tests.client_talking import FakeSoundCard
from tests.conftest import SAMPLES
from tests.scripted import ScriptedEngine
from tests.serving import wait_until_free

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
    return [(entry["turn"] or entry["typed"])["text"] for entry in told(page, "said")["entries"]]


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
