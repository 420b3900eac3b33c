"""The page in a real browser: a recorded voice goes in, the reply is read off the page."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    Playwright,
    Route,
    WebSocketRoute,
    expect,
)

from backend.audio import read_audio
from backend.engine import Engine
from backend.model.checkpoint import Ability, Checkpoint
from backend.protocol import Emotion
from backend.serving.process import ServingOptions
from tests.browsing import (
    SAMPLES,
    WAIT_MS,
    chromium,
    microphone_file,
    open_page,
    part,
    samples,
)
from tests.scripted import ScriptedCheckpoint, ScriptedEngine, ScriptedReply
from tests.serving import serving, wait_until_free

FIRST = ScriptedReply("Coming up: large dark roast americano.", Emotion.HAPPY)
SECOND = ScriptedReply("You said seven.", Emotion.NORMAL)
ABILITIES = (
    Ability("digits", "a digit from zero to nine", "seven", "You said seven.", Emotion.NORMAL),
    Ability("sounds", "rooster", None, "Good morning!", Emotion.HAPPY),
    *(
        Ability("phrases", f"<b>{number}</b>", f"phrase {number}", "Yes.", Emotion.HAPPY)
        for number in range(50)
    ),
)

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine([FIRST, SECOND], num_slots=2)


@pytest.fixture(scope="module")
def address(engine: ScriptedEngine) -> Iterator[str]:
    with serving(engine) as address:
        yield address


@pytest.fixture
def visit(quiet_browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the page in a profile of its own; all visitors have left when the test is over."""
    contexts: list[BrowserContext] = []

    def visit(**options: Any) -> Page:
        page = open_page(quiet_browser, address, **options)
        contexts.append(page.context)
        return page

    yield visit
    for context in contexts:
        # A page that is left gives its place back; one that is killed keeps it for its return.
        context.pages[0].goto("about:blank")
        context.close()


def remember_states(page: Page) -> None:
    """Note every state that the page shows, however shortly; any machine may be behind."""
    page.locator(part("state")).evaluate(
        """element => {
          window.states = [element.textContent];
          new MutationObserver(() => {
            const state = element.textContent;
            if (state === 'CATCHING UP' || state === window.states.at(-1)) return;
            window.states.push(state);
          }).observe(element, { childList: true });
        }"""
    )


def expect_states(page: Page, states: list[str]) -> None:
    """Wait until exactly these have been shown."""
    page.wait_for_function(f"window.states.length >= {len(states)}")
    assert page.evaluate("window.states") == states


def start(page: Page) -> None:
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("LISTENING")


def play(page: Page, title: str) -> None:
    page.get_by_role("button", name=title, exact=True).click()


def expect_reply(page: Page, reply: str, emotion: str) -> None:
    expect(page.locator(part("reply"))).to_have_text(reply)
    expect(page.locator(part("emotion"))).to_have_text(emotion)
    row = page.locator(part("turns")).locator("li:not(.spoken)").last
    expect(row).to_contain_text(reply)
    expect(row).to_contain_text(emotion)


@pytest.mark.parametrize("sample", samples()[:1] + samples()[3:4], ids=lambda s: s["title"])
def test_recorded_voice_is_answered(
    playwright: Playwright, embedded_checkpoint: Checkpoint, tmp_path: Path, sample: dict[str, str]
) -> None:
    """People that no training has heard speak into the microphone; the right reply appears."""
    with (
        Engine(embedded_checkpoint) as engine,
        serving(engine) as address,
        chromium(playwright, microphone_file(tmp_path, sample["file"])) as browser,
    ):
        page = open_page(browser, address)
        remember_states(page)
        start(page)
        expect_reply(page, sample["reply"], sample["emotion"])
        expect_states(page, ["NOT LISTENING", "CONNECTING", "LISTENING", "REPLYING", "LISTENING"])


def test_conversation_from_start_to_stop(
    visit: Visit, address: str, engine: ScriptedEngine
) -> None:
    page = visit()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.reload()
    page.wait_for_selector("[data-ready]")
    remember_states(page)
    start(page)
    play(page, "Seven")
    expect_reply(page, FIRST.text, "happy")
    expect_states(page, ["NOT LISTENING", "CONNECTING", "LISTENING", "REPLYING", "LISTENING"])
    expect(page.locator(part("latency"))).to_have_text(re.compile(r"first text \d+ ms$"))
    play(page, "Five")
    expect_reply(page, SECOND.text, "normal")
    expect(page.locator(part("announcer"))).to_have_text(f"normal: {SECOND.text}")
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
    wait_until_free(engine)
    foreign = [url for url in requested if not url.startswith((f"http://{address}/", "data:"))]
    assert foreign == []


def test_recording_arrives_as_it_was(visit: Visit, engine: ScriptedEngine) -> None:
    """Through decoder, mixer, resampler and socket: what the engine hears is the recording."""
    wait_until_free(engine)
    page = visit()
    play(page, "Seven")
    expect_reply(page, FIRST.text, "happy")
    (session,) = engine.sessions
    # Compared at three times the rate, as they may lie a fraction of a sample apart.
    heard = soxr.resample(np.concatenate(session.chunks), 16_000, 48_000)
    original = soxr.resample(read_audio(SAMPLES / "digit_seven.ogg"), 16_000, 48_000)
    products = correlate(heard, original)
    start = int(products.argmax())
    passage = heard[start : start + len(original)]
    similarity = products[start] / np.linalg.norm(passage) / np.linalg.norm(original)
    assert similarity > 0.98
    assert np.linalg.norm(passage) == pytest.approx(np.linalg.norm(original), rel=0.05)


def test_microphone_is_used_only_while_it_is_on(playwright: Playwright, tmp_path: Path) -> None:
    engine = ScriptedEngine([FIRST, SECOND])
    microphone = microphone_file(tmp_path, "digit_seven.ogg", quiet_before_seconds=6.0)
    with serving(engine) as address, chromium(playwright, microphone) as browser:
        muted, open_later = open_page(browser, address), open_page(browser, address)
        start(muted)
        muted.get_by_role("button", name="Mute").click()
        play(open_later, "Eight")
        expect_reply(open_later, FIRST.text, "happy")
        open_later.get_by_role("button", name="Use the microphone").click()
        expect_reply(open_later, SECOND.text, "normal")
        assert muted.locator(part("turns")).locator("li:not(.spoken)").count() == 0


def test_browsers_do_not_mix(visit: Visit) -> None:
    first, second = visit(), visit()
    start(first)
    start(second)
    play(first, "Seven")
    expect_reply(first, FIRST.text, "happy")
    assert second.locator(part("turns")).locator("li:not(.spoken)").count() == 0
    play(first, "Five")
    expect_reply(first, SECOND.text, "normal")
    play(second, "Eight")
    expect_reply(second, FIRST.text, "happy")
    assert second.locator(part("turns")).locator("li:not(.spoken)").count() == 1


def test_full_server_has_a_queue(visit: Visit) -> None:
    pages = [visit() for _ in range(3)]
    for page in pages[:2]:
        start(page)
    pages[2].click(part("start"))
    expect(pages[2].locator(part("state"))).to_have_text("QUEUED")
    expect(pages[2].locator(part("reply"))).to_contain_text("You are number 1")
    pages[0].click(part("start"))
    expect(pages[2].locator(part("state"))).to_have_text("LISTENING")
    play(pages[2], "Seven")
    expect_reply(pages[2], FIRST.text, "happy")


def test_server_that_is_restarted(quiet_browser: Browser, engine: ScriptedEngine) -> None:
    with serving(engine) as address:
        page = open_page(quiet_browser, address)
        start(page)
    state, notice = page.locator(part("state")), page.locator(part("notice"))
    expect(notice).to_contain_text("The server is being restarted")
    expect(state).to_have_text("RECONNECTING")
    with serving(engine, port=int(address.split(":")[1])):
        expect(state).to_have_text("LISTENING")
        expect(notice).to_contain_text("This is a new one")
        play(page, "Seven")
        expect_reply(page, FIRST.text, "happy")
    expect(state).to_have_text("RECONNECTING")
    page.click(part("start"))
    expect(state).to_have_text("NOT LISTENING")
    page.click(part("start"))
    expect(page.locator(part("alert"))).to_contain_text("The server cannot be reached")
    expect(state).to_have_text("NOT LISTENING")


def test_page_can_be_used_when_it_is_ready_and_not_before(
    quiet_browser: Browser, address: str
) -> None:
    page = quiet_browser.new_context(locale="en-US").new_page()
    page.set_default_timeout(WAIT_MS)
    held: list[Route] = []
    page.route("**/live/main.js", lambda route: held.append(route))
    page.route("**/health", lambda route: route.abort(), times=1)
    with page.expect_request("**/live/main.js"):
        page.goto(f"http://{address}/")
    expect(page.locator(part("start"))).to_be_hidden()
    assert page.get_by_role("button").count() == 0  # nor for keyboards and screen readers
    held[0].continue_()
    expect(page.get_by_role("alert")).to_have_text(re.compile("cannot be reached; trying again"))
    expect(page.locator(part("start"))).to_be_hidden()
    start(page)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.goto("about:blank")
    page.context.close()


def test_page_behind_a_proxy_that_hides_its_address_says_why(visit: Visit) -> None:
    def from_elsewhere(route: WebSocketRoute) -> None:
        error = {"message": "a page from http://elsewhere may not connect"}
        route.send(json.dumps({"type": "error", "error": error}))
        route.close(code=1008, reason="origin_not_allowed")

    page = visit()
    page.route_web_socket(re.compile("/v1/realtime"), from_elsewhere)
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.click(part("start"))
    expect(page.locator(part("alert"))).to_contain_text("http://elsewhere may not connect")
    expect(page.locator(part("state"))).to_have_text("NOT LISTENING")


def ask_for_the_microphone(page: Page) -> None:
    """From now on the visitor is asked: `window.answers` holds what grants each request."""
    page.evaluate(
        """() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          window.answers = [];
          window.tracks = [];
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            await new Promise((grant) => window.answers.push(grant));
            const stream = await open(wanted);
            window.tracks.push(...stream.getTracks());
            return stream;
          };
        }"""
    )


def test_microphone_is_asked_for_once_and_let_go(visit: Visit) -> None:
    page = visit()
    play(page, "Seven")
    expect(page.locator(part("state"))).not_to_have_text("CONNECTING")
    ask_for_the_microphone(page)
    for _ in range(2):
        page.click(part("microphone"))
    assert page.evaluate("window.answers.length") == 1
    page.evaluate("window.answers[0]()")
    expect(page.locator(part("microphone"))).to_have_text("Mute")
    page.click(part("start"))
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]


def test_microphone_that_is_granted_after_the_stop_is_let_go(visit: Visit) -> None:
    page = visit()
    # A context that takes its time to close must not be what tells that we have stopped.
    page.evaluate("() => { AudioContext.prototype.close = () => new Promise(() => {}); }")
    ask_for_the_microphone(page)
    page.click(part("start"))
    page.wait_for_function("window.answers.length === 1")
    page.click(part("start"))
    page.evaluate("window.answers[0]()")
    page.wait_for_function("window.tracks[0]?.readyState === 'ended'")


def test_screen_is_kept_awake_while_it_listens_and_no_longer(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
          window.released = 0;
          window.lock = { released: false, release: () => { window.released += 1; } };
          const request = () => new Promise((grant) => { window.grant = () => grant(lock); });
          Object.defineProperty(navigator, 'wakeLock', { value: { request } });
        }"""
    )
    start(page)
    page.click(part("start"))
    page.evaluate("window.grant()")
    page.wait_for_function("window.released === 1")
    page.evaluate("window.grant = null")
    start(page)
    page.evaluate("window.grant()")
    # Out of sight the browser releases it; the page asks again when it is back.
    page.evaluate(
        """() => {
          window.grant = null;
          window.lock.released = true;
          document.dispatchEvent(new Event('visibilitychange'));
          window.lock = { ...window.lock, released: false };
          window.grant();
        }"""
    )
    page.click(part("start"))
    page.wait_for_function("window.released === 2")


def test_recording_that_is_decoded_after_the_stop_is_not_played(visit: Visit) -> None:
    page = visit()
    page.evaluate(
        """() => {
          const { decodeAudioData } = AudioContext.prototype;
          AudioContext.prototype.decodeAudioData = async function (encoded) {
            const buffer = await decodeAudioData.call(this, encoded);
            await new Promise((goOn) => { window.goOn = goOn; });
            return buffer;
          };
        }"""
    )
    play(page, "Seven")
    page.wait_for_function("() => window.goOn !== undefined")
    page.click(part("start"))
    page.evaluate("window.goOn()")
    expect(page.locator('[data-part="samples"] [aria-pressed]')).to_have_count(0)
    expect(page.locator(part("alert"))).to_be_hidden()


def test_long_conversation_takes_no_more_room(visit: Visit) -> None:
    """An hour of frames, decisions and replies: sound is kept for minutes."""
    page = visit()
    kept = page.evaluate(
        """async () => {
          const { Conversation } = await import('/live/conversation.js');
          const conversation = new Conversation();
          const pcm = new Int16Array(800);
          for (let chunk = 0; chunk < 9000; chunk += 1) {
            const end = 400 * (chunk + 1);
            for (let i = 7; i >= 0; i -= 1) {
              conversation.frameCaptured({ pcm, peak: 0.5 }, end - 50 * i);
            }
            const seconds = end / 1000;
            const metadata = { chunk, speak_probability: 0.9, milliseconds: 3, seconds };
            const response_id = `resp_${chunk}`;
            conversation.decided(metadata, true);
            conversation.startTurn(response_id, metadata, null, end + 1);
            conversation.addText(response_id, 'yes', end + 2, false);
            conversation.endText(response_id, 'completed', null);
            conversation.speechStarted(seconds - 0.8);
            conversation.speechStopped(seconds);
          }
          const { turns, decisions, peaks, frames } = conversation;
          const ofKept = conversation.kept.map((utterance) => utterance.pcm.length);
          return {
            minutesKept: Math.round(ofKept.reduce((a, b) => a + b) / 16000 / 60),
            sizes: [peaks, frames, decisions, turns].map((kept) => [...kept.from(0)].length),
            unfinished: conversation.turnByResponse.size + conversation.numUndecided,
            last: [turns.last.startChunk, turns.last.status],
            times: [turns.last.timing.decidedMs, turns.last.timing.firstTextMs],
            latencies: Object.values(conversation.latencies),
          };
        }"""
    )
    assert kept == {
        "minutesKept": 10,
        "sizes": [72_000, 6000, 9000, 9000],
        "unfinished": 0,
        "last": [8999, "completed"],
        "times": pytest.approx([1, 2]),
        "latencies": pytest.approx([2, 2]),
    }


MICROPHONE_PROBLEMS = {
    "NotAllowedError": "Allow it beside the address",
    "NotFoundError": "No microphone was found",
    "NotReadableError": "in use by another program",
    "AbortError": "could not be started",
}


def test_microphone_problems_in_words(visit: Visit) -> None:
    page = visit()
    for error, words in MICROPHONE_PROBLEMS.items():
        page.evaluate(
            "name => { navigator.mediaDevices.getUserMedia = () =>"
            " Promise.reject(new DOMException('', name)); }",
            error,
        )
        page.click(part("start"))
        expect(page.locator(part("alert"))).to_contain_text(words)
        expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
    # A recording still works: it needs no microphone.
    play(page, "Seven")
    expect_reply(page, FIRST.text, "happy")


def test_insecure_address_in_words(visit: Visit) -> None:
    page = visit()
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.click(part("start"))
    expect(page.locator(part("alert"))).to_contain_text("http://localhost or over https")


def test_slow_model_is_shown_as_catching_up(visit: Visit) -> None:
    def hear_nothing(route: WebSocketRoute) -> None:
        server = route.connect_to_server()
        server.on_message(
            lambda message: None if b"listen" in _bytes(message) else route.send(message)
        )

    page = visit()
    page.route_web_socket(re.compile("/v1/realtime"), hear_nothing)
    page.reload()
    page.wait_for_selector("[data-ready]")
    start(page)
    expect(page.locator(part("behind"))).to_contain_text("catching up")


def correlate(heard: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Inner products of `original` with every passage of `heard` of its length."""
    size = len(heard) + len(original)
    spectrum = np.fft.rfft(heard, size) * np.fft.rfft(original, size).conj()
    products: np.ndarray = np.fft.irfft(spectrum, size)[: len(heard) - len(original) + 1]
    return products


def _bytes(message: str | bytes) -> bytes:
    return message.encode() if isinstance(message, str) else message


def test_page_fits_its_screens(visit: Visit) -> None:
    page = visit(viewport={"width": 1280, "height": 800})
    play(page, "Seven")
    expect_reply(page, FIRST.text, "happy")
    long_reply = "words " * 500
    page.locator(part("reply")).evaluate("(reply, text) => reply.textContent = text", long_reply)
    assert page.evaluate("document.scrollingElement.scrollHeight") <= 800
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_access_key_is_asked_for_before_anything_begins(quiet_browser: Browser) -> None:
    engine = ScriptedEngine([FIRST])
    with serving(engine, options=ServingOptions(access_key="sesame")) as address:
        page = open_page(quiet_browser, address)
        dialog = page.get_by_role("dialog", name="This server wants a key")
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Close").click()
        expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
        page.click(part("start"))  # it cannot begin without
        field = dialog.get_by_role("textbox")
        field.fill("wrong")
        field.press("Enter")
        expect(dialog).to_contain_text("knows no such key")
        field.fill("sesame")
        field.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.locator(part("state"))).to_have_text("LISTENING")
        page.context.close()


def test_what_can_be_said_is_listed(quiet_browser: Browser) -> None:
    engine = ScriptedEngine([FIRST])
    engine.checkpoint = ScriptedCheckpoint(abilities=ABILITIES)
    with serving(engine) as address:
        page = open_page(quiet_browser, address, viewport={"width": 1280, "height": 800})
        ask = page.get_by_role("button", name="What can I say?")
        listed = page.get_by_role("region", name="What can I say?")
        expect(page.locator(part("reply"))).to_have_text("Now you: press start, and speak.")
        expect(page.locator(part("ability"))).to_contain_text("digits, sounds, and phrases")
        expect(page.locator(part("tries")).get_by_role("button")).to_have_count(4)
        expect(listed).to_be_hidden()
        ask.focus()
        page.keyboard.press("Enter")
        expect(ask).to_have_attribute("aria-expanded", "true")
        rows = listed.get_by_role("listitem")
        expect(rows).to_have_count(len(ABILITIES))
        expect(rows.first).to_have_text("“seven” · a digit from zero to nineYou said seven. normal")
        expect(rows.nth(1)).to_have_text("a roosterGood morning! happy")
        expect(rows.last).to_contain_text("<b>49</b>")
        assert page.evaluate("document.scrollingElement.scrollHeight") <= 800
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
        box = listed.bounding_box()
        assert box is not None
        bar = page.locator(".controls").bounding_box()
        assert bar is not None
        assert box["y"] + box["height"] <= bar["y"] + 1  # start and stop stay in reach
        page.keyboard.press("Escape")
        expect(listed).to_be_hidden()
        expect(ask).to_be_focused()
        page.context.close()


def test_checkpoint_that_does_not_say_what_it_answers(visit: Visit) -> None:
    page = visit()
    expect(page.locator(part("askAbilities"))).to_be_hidden()
    expect(page.locator(part("tries")).get_by_role("button")).to_have_count(0)


def test_resampler_keeps_speech_and_stops_what_would_alias(visit: Visit) -> None:
    page = visit()
    output_levels = page.evaluate(
        """async () => {
          const { Resampler } = await import('/live/resample.js');
          const level = (rate, hertz) => {
            const resampler = new Resampler(rate, 16000);
            const output = [];
            for (let start = 0; start < rate / 2; start += 128) {
              const block = Float32Array.from({ length: 128 },
                (_, i) => Math.sin(2 * Math.PI * hertz * (start + i) / rate));
              output.push(...resampler.process(block));
            }
            const settled = output.slice(1000);
            return Math.sqrt(settled.reduce((sum, x) => sum + x * x, 0) / settled.length);
          };
          const hertz = [1000, 6500, 9000];
          return [44100, 48000].map(rate => hertz.map(frequency => level(rate, frequency)));
        }"""
    )
    for speech, high_speech, too_high in output_levels:
        assert speech == pytest.approx(np.sqrt(0.5), rel=1e-3)
        assert high_speech == pytest.approx(np.sqrt(0.5), rel=1e-2)
        assert too_high < 1e-4


def test_typed_text_that_the_model_does_not_know_is_left_unanswered(
    quiet_browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that states what it answers is not made to say something else."""
    monkeypatch.setattr("tests.scripted.LOUD", 10.0)  # whatever it hears, it keeps silent
    engine = ScriptedEngine([FIRST])
    engine.checkpoint = ScriptedCheckpoint(abilities=ABILITIES)
    with serving(engine) as address:
        page = open_page(quiet_browser, address, locale="en-US")
        page.fill(part("typed"), "What is 2 + 2?")
        page.press(part("typed"), "Enter")
        expect(page.locator(part("reply"))).to_have_text("That is not among what it knows.")
        expect(page.locator(part("heard"))).to_have_text("“What is 2 + 2?”")
        expect(page.locator(part("tries"))).to_be_visible()
        page.context.close()
