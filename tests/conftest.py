"""Fixtures that several test files share."""

import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, Playwright, sync_playwright

from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.protocol import Emotion
from tests.browsing import chromium, microphone_file, tone_file
from tests.duplex_page import DuplexPage, OpenDuplex
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

GOLDEN = Path(__file__).parent / "golden"
SAMPLES = Path(__file__).parents[1] / "assets" / "samples"

# PulseAudio's null sinks are no sound card for PyAudio on other systems.
collect_ignore = [] if sys.platform == "linux" else ["test_local_sound.py"]


def pytest_configure() -> None:
    """What no test should depend on: how many cores there are, and how busy they are."""
    # The models here are too small to be worth sharing a step between threads.
    torch.set_num_threads(1)
    # By the clock on the wall, how long an example takes tells how busy the machine is and no more:
    # a test of how long something takes counts the processor's time.
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")


@pytest.fixture(scope="session")
def golden_checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small random checkpoint whose numbers the reference implementation computed."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "checkpoint.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "ckpt_tiny"


@pytest.fixture(scope="session")
def golden_checkpoint(golden_checkpoint_dir: Path) -> Checkpoint:
    """The reference checkpoint, loaded in fp32 on the CPU."""
    return load_checkpoint(str(golden_checkpoint_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="session", params=["count_bark_01", "synthetic"])
def golden_clip(request: pytest.FixtureRequest) -> Mapping[str, np.ndarray]:
    """A clip with what the reference implementation made of it; see golden/README.md."""
    with np.load(GOLDEN / f"{request.param}.npz") as clip:
        return dict(clip)


@pytest.fixture(scope="session")
def embedded_checkpoint() -> Checkpoint:
    """The checkpoint that lies in the repository, in fp32 on the CPU."""
    return load_checkpoint(EMBEDDED, device="cpu", dtype="float32")


@pytest.fixture
def engine() -> ScriptedEngine:
    """An engine of a server; its reply holds what a page has to escape."""
    return ScriptedEngine([ScriptedReply("Coming <up>.", Emotion.HAPPY)])


@pytest.fixture
def address(engine: ScriptedEngine) -> Iterator[str]:
    """Address of a server with that engine."""
    with serving(engine) as address:
        yield address


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """What starts browsers."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def quiet_browser(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser in a quiet room."""
    microphone = microphone_file(tmp_path_factory.mktemp("quiet"), None)
    with chromium(playwright, microphone) as browser:
        yield browser


@pytest.fixture(scope="module")
def humming_browser(
    playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser whose microphone hears a steady tone."""
    microphone = tone_file(tmp_path_factory.mktemp("tone"))
    with chromium(playwright, microphone) as browser:
        yield browser


@pytest.fixture(scope="module")
def page_files() -> Iterator[str]:
    """Address of a server of which pages take their files alone."""
    with serving(ScriptedEngine([ScriptedReply("yes")])) as address:
        yield address


@pytest.fixture
def open_duplex(humming_browser: Browser, page_files: str) -> Iterator[OpenDuplex]:
    """Opens pages without their looks; each talks to a scripted server of its own."""
    pages: list[DuplexPage] = []

    def open_duplex() -> DuplexPage:
        pages.append(DuplexPage(humming_browser, page_files))
        return pages[-1]

    yield open_duplex
    for page in pages:
        page.close()
