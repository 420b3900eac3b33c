"""Screenshots for the README: a conversation of recorded voices with the embedded model.

`make screenshots` writes them to `assets/screenshots/`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from backend.engine import Engine
from backend.model.checkpoint import EMBEDDED, load_checkpoint
from tests.browsing import chromium, microphone_file, open_page, samples
from tests.scripted import DEMO_REPLIES, ScriptedEngine
from tests.serving import serving

FOLDER = Path(__file__).parents[1] / "assets" / "screenshots"
REPLY_MILLISECONDS = 20_000
SPEAKING_OF_TURN = """turn =>
  document.querySelectorAll('[data-part=turns] li').length === turn &&
  document.querySelector('[data-part=state]').textContent === 'SPEAKING' &&
  document.querySelector('[data-part=latency]').textContent.includes('finished')"""
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


def converse(page: Page) -> None:
    """Play digits and orders until each has its reply; the last one has just been said."""
    answered = [sample for sample in samples() if sample["reply"]]
    for number, sample in enumerate([answered[0], answered[3], answered[5], answered[1]]):
        expect(page.locator('[aria-pressed="true"]')).to_have_count(0, timeout=REPLY_MILLISECONDS)
        page.get_by_role("button", name=sample["title"], exact=True).click()
        page.wait_for_function(SPEAKING_OF_TURN, arg=number + 1, timeout=REPLY_MILLISECONDS)


def take(browser: Browser, address: str, theme: str, viewports: dict[str, Any]) -> None:
    """One conversation, seen at each size."""
    page = open_page(browser, address, color_scheme=theme, viewport=DESKTOP)
    converse(page)
    for name, viewport in viewports.items():
        page.set_viewport_size(viewport)
        page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
    page.context.close()


def main() -> None:
    """Take them all; `--scripted` needs no checkpoint."""
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        chromium(playwright, microphone_file(Path(folder), None)) as browser,
    ):
        if "--scripted" in sys.argv:
            with serving(ScriptedEngine(DEMO_REPLIES, seconds_per_word=0.1)) as address:
                take_all(browser, address)
        else:
            with Engine(load_checkpoint(EMBEDDED)) as engine, serving(engine) as address:
                take_all(browser, address)


def take_all(browser: Browser, address: str) -> None:
    """Light and dark desktops, and a dark phone."""
    take(browser, address, "light", {"live-light": DESKTOP})
    take(browser, address, "dark", {"live-dark": DESKTOP, "live-phone": PHONE})


if __name__ == "__main__":
    main()
