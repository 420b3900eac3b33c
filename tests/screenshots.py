"""Screenshots for the README: a conversation of recorded voices with the embedded model.

`make screenshots` writes them to `assets/screenshots/`.
"""

import base64
import sys
import tempfile
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from backend.engine import Engine
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from tests.browsing import chromium, microphone_file, part, samples
from tests.scripted import DEMO_REPLIES, ScriptedEngine
from tests.serving import serving
from webui.gradio_app import PREVIEW

FOLDER = Path(__file__).parents[1] / "assets" / "screenshots"
LONGEST_WAIT_MS = 30_000
# Replies are spoken by the offline voice, which is the same everywhere.
SPOKEN = """localStorage.setItem('audio-interaction-live',
  JSON.stringify({ speakReplies: true, voice: 'espeak:en-us' }))"""
SPEAKING_OF_TURN = """turn =>
  document.querySelectorAll('[data-part=turns] li[data-emotion]').length === turn &&
  document.querySelector('[data-part=state]').textContent === 'SPEAKING' &&
  document.querySelector('[data-part=latency]').textContent.includes('first sound')"""
HALF_SAID_MILLISECONDS = 1_200
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
PREVIEW_SIZE: ViewportSize = {"width": 1200, "height": 630}
FILMED = (0, 3)
FILM_SIZE = (960, 600)
FILM_QUALITY = 60
FRAME_SECONDS = 0.12
LAST_MILLISECONDS = 2_000
REPLAYED = "conversation"
"""The sample session that the replay page shows, in the middle of its fourth reply."""
REPLAYED_REPLY = 3


def converse(page: Page, said: Sequence[int] = (0, 3, 5, 1)) -> None:
    """Say digits and orders until each has its spoken reply; the last one is being said.

    Args:
        page: the live page.
        said: which of the sample recordings that are answered.
    """
    answered = [sample for sample in samples() if sample["reply"]]
    page.click(part("start"))
    for number, sample in enumerate(answered[each] for each in said):
        expect(page.locator(part("state"))).to_have_text("LISTENING", timeout=LONGEST_WAIT_MS)
        page.get_by_role("button", name=sample["title"], exact=True).click()
        page.wait_for_function(SPEAKING_OF_TURN, arg=number + 1, timeout=LONGEST_WAIT_MS)
    page.wait_for_timeout(HALF_SAID_MILLISECONDS)


def take(
    browser: Browser,
    address: str,
    theme: Literal["light", "dark"],
    viewports: dict[str, ViewportSize],
) -> None:
    """One conversation, seen at each size."""
    page = browser.new_context(color_scheme=theme, viewport=DESKTOP, locale="en-US").new_page()
    page.add_init_script(SPOKEN)
    page.goto(f"http://{address}/")
    page.wait_for_selector("[data-ready]")
    converse(page)
    for name, viewport in viewports.items():
        page.set_viewport_size(viewport)
        page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
    page.context.close()


def film(browser: Browser, address: str) -> None:
    """A moving picture of a conversation, for the README's first screen."""
    page = browser.new_context(viewport=DESKTOP, locale="en-US").new_page()
    page.add_init_script(SPOKEN)
    page.goto(f"http://{address}/")
    page.wait_for_selector("[data-ready]")
    frames: list[tuple[float, Image.Image]] = []
    session = page.context.new_cdp_session(page)

    def keep(frame: dict[str, Any]) -> None:
        session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})
        seconds = frame["metadata"]["timestamp"]
        if not frames or seconds - frames[-1][0] >= FRAME_SECONDS:
            picture = Image.open(BytesIO(base64.b64decode(frame["data"])))
            frames.append(
                (seconds, picture.convert("RGB").resize(FILM_SIZE, Image.Resampling.LANCZOS))
            )

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 95})
    converse(page, FILMED)
    page.wait_for_timeout(LAST_MILLISECONDS)
    session.send("Page.stopScreencast")
    page.context.close()
    times, pictures = zip(*frames, strict=True)
    durations = [round(1000 * (end - start)) for start, end in pairwise(times)]
    first, *rest = pictures
    first.save(
        FOLDER / "live.webp",
        save_all=True,
        append_images=rest,
        duration=[*durations, LAST_MILLISECONDS],
        loop=0,
        quality=FILM_QUALITY,
        method=4,
    )


def take_preview(browser: Browser, address: str) -> None:
    """What chats and posts show of a link to the page."""
    page = browser.new_context(viewport=PREVIEW_SIZE, locale="en-US").new_page()
    page.add_init_script(SPOKEN)
    page.goto(f"http://{address}/")
    page.wait_for_selector("[data-ready]")
    converse(page, FILMED)
    page.screenshot(path=PREVIEW, type="jpeg", quality=82, animations="disabled")
    page.context.close()


def take_replay(browser: Browser, address: str, theme: Literal["light", "dark"]) -> None:
    """A sample session on the replay page, half played."""
    page = browser.new_context(color_scheme=theme, viewport=DESKTOP, locale="en-US").new_page()
    page.goto(f"http://{address}/live/replay.html#gallery={REPLAYED}")
    reply = page.locator(part("turns")).locator("li:not(.typed)").nth(REPLAYED_REPLY)
    reply.get_by_role("button").click(timeout=LONGEST_WAIT_MS)
    expect(reply).to_have_attribute("aria-current", "true", timeout=LONGEST_WAIT_MS)
    page.click(part("play"))
    page.screenshot(path=FOLDER / f"replay-{theme}.png", animations="disabled")
    page.context.close()


def take_privacy(browser: Browser, address: str) -> None:
    """The privacy panel over a conversation that is being recorded."""
    page = browser.new_context(color_scheme="light", viewport=DESKTOP, locale="en-US").new_page()
    page.goto(f"http://{address}/")
    page.wait_for_selector("[data-ready]")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_label("Title").fill("For the bug report")
    page.get_by_role("button", name="Start recording").click()
    expect(page.locator(part("recordingLight"))).to_be_visible(timeout=LONGEST_WAIT_MS)
    page.click(part("openPrivacy"))
    expect(page.locator(part("openRecordingsToo"))).to_be_visible(timeout=LONGEST_WAIT_MS)
    page.screenshot(path=FOLDER / "privacy-light.png", animations="disabled")
    page.context.close()


def main() -> None:
    """Take them all; `--scripted` needs no checkpoint."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as recordings,
        sync_playwright() as playwright,
        chromium(playwright, microphone_file(Path(folder), None)) as browser,
    ):
        options = ServingOptions(recordings=StoreOptions(Path(recordings), may_share=True))
        if "--scripted" in sys.argv:
            scripted = ScriptedEngine(DEMO_REPLIES, seconds_per_word=0.1)
            with serving(scripted, options=options) as address:
                take_all(browser, address)
        else:
            with (
                Engine(load_checkpoint(EMBEDDED)) as engine,
                serving(engine, options=options) as address,
            ):
                take_all(browser, address)


def take_all(browser: Browser, address: str) -> None:
    """Light and dark desktops, a dark phone, the replay page, the privacy panel, and moving."""
    take(browser, address, "light", {"live-light": DESKTOP})
    take(browser, address, "dark", {"live-dark": DESKTOP, "live-phone": PHONE})
    take_replay(browser, address, "light")
    take_replay(browser, address, "dark")
    take_privacy(browser, address)
    take_preview(browser, address)
    film(browser, address)


if __name__ == "__main__":
    main()
