"""Chromium with a recording as its microphone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from playwright.sync_api import Browser, Page, Playwright, expect

from backend.audio import read_audio
from backend.config import SAMPLE_RATE_HZ
from bench.live import CHROMIUM_FLAGS, system_chromium

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
MICROPHONE_RATE_HZ = 48_000
WAIT_MS = 60_000
"""For what a page does; a busy machine takes its time."""
QUIET_SECONDS = 2.0
"""Before and after a recording."""
TONE_SECONDS = 120
TONE_HZ = 500.0
TONE_LEVEL = 0.1
"""Amplitude of the tone that `tone_file` holds."""

expect.set_options(timeout=WAIT_MS)


def samples() -> list[dict[str, Any]]:
    """The recordings that the page offers, with the replies they should get."""
    listed: list[dict[str, Any]] = json.loads((SAMPLES / "samples.json").read_text("utf-8"))
    return listed


def microphone_file(
    folder: Path, recording: str | None, quiet_before_seconds: float = QUIET_SECONDS
) -> Path:
    """A recording of ours as Chromium wants a microphone's; None is a quiet room."""
    before, quiet = (
        np.zeros(round(seconds * MICROPHONE_RATE_HZ), np.float32)
        for seconds in (quiet_before_seconds, QUIET_SECONDS)
    )
    heard = [before]
    if recording is not None:
        voice = read_audio(SAMPLES / recording)
        heard.append(soxr.resample(voice, SAMPLE_RATE_HZ, MICROPHONE_RATE_HZ))
    path = folder / f"{recording or 'quiet'}.wav"
    soundfile.write(path, np.concatenate([*heard, quiet]), MICROPHONE_RATE_HZ, subtype="PCM_16")
    return path


def tone_file(folder: Path) -> Path:
    """A few minutes of a steady tone, as Chromium wants a microphone's file."""
    time = np.arange(TONE_SECONDS * MICROPHONE_RATE_HZ) / MICROPHONE_RATE_HZ
    path = folder / "tone.wav"
    tone = TONE_LEVEL * np.sin(2 * np.pi * TONE_HZ * time)
    soundfile.write(path, tone, MICROPHONE_RATE_HZ, subtype="PCM_16")
    return path


@contextmanager
def chromium(playwright: Playwright, microphone: Path) -> Iterator[Browser]:
    """A browser that hears `microphone` once, then silence."""
    capture = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    browser = playwright.chromium.launch(
        executable_path=system_chromium(), args=[*CHROMIUM_FLAGS, capture]
    )
    try:
        yield browser
    finally:
        browser.close()


def part(name: str) -> str:
    """Selector of one part of the page."""
    return f'[data-part="{name}"]'


def open_page(browser: Browser, address: str, **options: Any) -> Page:
    """The live page in a profile of its own, ready to be used."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(f"http://{address}/")
    page.wait_for_selector("[data-ready]")
    return page
