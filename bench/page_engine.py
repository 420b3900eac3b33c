"""What the model costs in a page, and whether it says there what it says on a server."""

import base64
import functools
import hashlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from backend.audio import Samples
from backend.browser.graph import WeightFormat
from backend.browser.page import PAGE, assemble, size_of
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, EngineConfig, SessionSettings
from backend.engine.core import EngineCore
from backend.events import ContextRolled
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED
from backend.recordings.reader import SessionFile
from backend.trace import TracedDecision, TracedToken
from bench.live import CHROMIUM_FLAGS, system_chromium

GALLERY = Path(__file__).parents[1] / "assets" / "gallery"
SCRIPT = Path(__file__).parent / "page_engine.js"
NUM_CLIPS = 200
QUIET_SECONDS = 1.2
"""Before and after a clip."""
PACE_MINUTES = 5
MEMORY_STEPS = 6


@dataclass(slots=True)
class EngineOutput:
    """What an engine made of a sound: the server's trace, or filled from the page's records."""

    decisions: list[int] = field(default_factory=list)
    logits: list[tuple[float, float]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def hears(self, chunk: Samples) -> Samples:
        """As `Trace`."""
        return chunk

    def decided(self, decision: TracedDecision) -> None:
        """As `Trace`."""
        self.decisions.append(decision.token)
        self.logits.append(decision.logits)

    def said(self, token: TracedToken) -> None:
        """As `Trace`."""
        self.tokens.append(token.token)

    def settings_changed(self, *_: object) -> None:
        """As `Trace`."""

    def rolled(self, rolled: ContextRolled) -> None:
        """As `Trace`."""

    def failed(self, message: str) -> None:
        """As `Trace`."""
        raise AssertionError(message)


@dataclass(slots=True)
class Agreement:
    """How far a page and a server agreed, over some sounds."""

    sounds: int = 0
    equal_sounds: int = 0
    decisions: int = 0
    equal_decisions: int = 0
    tokens: int = 0
    farthest: float = 0.0
    """Between logits of decisions."""
    differences: list[str] = field(default_factory=list)

    def add(self, name: str, server: EngineOutput, page: EngineOutput) -> None:
        """Compare what both made of one sound."""
        same = [a == b for a, b in zip(server.decisions, page.decisions, strict=True)]
        self.sounds += 1
        self.equal_sounds += all(same) and server.tokens == page.tokens
        self.decisions += len(same)
        self.equal_decisions += sum(same)
        self.tokens += len(server.tokens)
        apart = np.abs(np.array(server.logits) - np.array(page.logits)).max()
        self.farthest = max(self.farthest, float(apart))
        if not all(same):
            first = same.index(False)
            silence, speech = server.logits[first]
            margin = abs(silence - speech)
            self.differences.append(f"{name}, chunk {first}: a margin of {margin:.3f} logits")
        elif server.tokens != page.tokens:
            self.differences.append(f"{name}: other words")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A measurement has its own lines."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = functools.partial(_QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def _chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@contextmanager
def _engine(browser: Browser, address: str) -> Iterator[Page]:
    """A page whose model hears what it is given."""
    page = browser.new_page()
    page.set_default_timeout(0)
    page.goto(address)
    page.wait_for_selector("[data-ready]")
    page.evaluate(SCRIPT.read_text("utf-8"), f"{address}live/engine/")
    yield page
    page.close()


def _page_hears(page: Page, sound: Samples) -> list[dict[str, Any]]:
    pcm = np.rint(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
    content = base64.b64encode(pcm).decode()
    records: list[dict[str, Any]] = page.evaluate("sound => hearSound(sound)", content)
    return records


def _heard_in_page(page: Page, sound: Samples) -> EngineOutput:
    page.evaluate("beginConversation()")
    heard = EngineOutput()
    for record in _page_hears(page, sound):
        if record["type"] == "decision":
            heard.decisions.append(record["token"])
            heard.logits.append(tuple(record["logits"]))
        elif record["type"] == "token":
            heard.tokens.append(record["token"])
    return heard


def _heard_by_server(core: EngineCore, sound: Samples) -> EngineOutput:
    heard = EngineOutput()
    session = core.open(SessionSettings(), heard)
    # In 16 bits, as a page has it.
    steps = np.rint(np.clip(sound, -1, 1) * 32767) / 32768
    for chunk in steps.astype(np.float32).reshape(-1, CHUNK_SAMPLES):
        core.hear(session, chunk)
        while core.has_work():
            list(core.step())
    core.close(session)
    return heard


def _gallery() -> list[tuple[str, Samples]]:
    sounds = []
    for path in sorted(GALLERY.glob("*.aisession")):
        with SessionFile(path) as file:
            # Back to the samples that 32767 gives again.
            sound = (np.concatenate(list(file.chunks())) * (32768 / 32767)).astype(np.float32)
        sounds.append((path.stem, sound))
    return sounds


def _held_out_clips(data: Path) -> list[tuple[str, Samples]]:
    """Recordings that training never heard, of every kind, chosen by a hash of their names."""
    from backend.training.data import is_held_out, load_audio, read_manifests

    held_out = [recording for recording in read_manifests(data) if is_held_out(recording)]
    held_out.sort(key=lambda recording: hashlib.sha256(recording.file.encode()).digest())
    quiet = np.zeros(round(QUIET_SECONDS / CHUNK_SECONDS) * CHUNK_SAMPLES, np.float32)
    clips = []
    for recording in held_out[:NUM_CLIPS]:
        sound = np.concatenate([quiet, load_audio(data / recording.file), quiet])
        sound = np.pad(sound, (0, -len(sound) % CHUNK_SAMPLES)).astype(np.float32)
        clips.append((recording.file, sound))
    return clips


def _agreement(core: EngineCore, page: Page, sounds: Sequence[tuple[str, Samples]]) -> Agreement:
    found = Agreement()
    for name, sound in sounds:
        found.add(name, _heard_by_server(core, sound), _heard_in_page(page, sound))
    return found


def _seconds_to_listening(page: Page) -> float:
    began = time.perf_counter()
    page.click("[data-part=start]")
    page.wait_for_selector("[data-part=state]:text-is('LISTENING')")
    return time.perf_counter() - began


def _starts(browser: Browser, address: str) -> tuple[float, float]:
    """Seconds from the click to listening, at a first visit and at one after it."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(0)
    seconds = []
    for _ in range(2):
        page.goto(address)
        page.wait_for_selector("[data-ready]")
        page.evaluate("navigator.serviceWorker.ready.then(() => true)")
        seconds.append(_seconds_to_listening(page))
    context.close()
    return seconds[0], seconds[1]


def _renderers() -> Iterator[psutil.Process]:
    """The processes of the browser's pages."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "--type=renderer" in process.cmdline():
                yield process


def _renderers_mib() -> float:
    """Memory of the browser's pages; what they share counts in each."""
    return sum(process.memory_info().rss for process in _renderers()) / 2**20


def _renderers_seconds() -> float:
    """Processor time that the browser's pages have taken."""
    return sum(sum(process.cpu_times()[:2]) for process in _renderers())


def _looped(sounds: Sequence[tuple[str, Samples]], seconds: float) -> Samples:
    joined = np.concatenate([sound for _, sound in sounds])
    return np.resize(joined, round(seconds / CHUNK_SECONDS) * CHUNK_SAMPLES)


def _report_pace(page: Page, sound: Samples) -> None:
    page.evaluate("beginConversation()")
    began = _renderers_seconds()
    records = _page_hears(page, sound)
    processor = (_renderers_seconds() - began) * 1000
    costs = sorted(r["milliseconds"] for r in records if r["type"] == "decision")
    rolls = sum(record["type"] == "rolled" for record in records)
    p95 = costs[int(0.95 * len(costs))]
    print(
        f"A chunk in WebAssembly, one thread, {len(costs)} chunks: "
        f"{statistics.median(costs):.1f} ms (95 %: {p95:.1f} ms, the slowest of {rolls} that "
        f"came with a roll of the context: {costs[-1]:.0f} ms); {processor / len(costs):.1f} ms "
        "of the processor, replies included"
    )


def _report_memory(page: Page, sounds: Sequence[tuple[str, Samples]], minutes: float) -> None:
    page.evaluate("beginConversation()")
    print(f"Memory of the page over one conversation of {minutes:g} minutes:", end=" ", flush=True)
    began = time.perf_counter()
    for _ in range(MEMORY_STEPS):
        _page_hears(page, _looped(sounds, minutes * 60 / MEMORY_STEPS))
        print(f"{_renderers_mib():.0f}", end=" ", flush=True)
    speed = minutes * 60 / (time.perf_counter() - began)
    print(f"MiB, {speed:.0f} times as fast as it lasts")


def _add_modules(folder: Path) -> None:
    """Put the engine's modules beside the page's bundles, to be driven one by one."""
    engine = folder / "live" / "engine"
    bundled = shutil.ignore_patterns("worker.js")
    shutil.copytree(PAGE / "engine", engine, ignore=bundled, dirs_exist_ok=True)


def _report_format(
    checkpoint: Checkpoint, weights: WeightFormat, sounds: Sequence[tuple[str, Samples]]
) -> None:
    core = EngineCore(checkpoint, EngineConfig(num_slots=1))
    with tempfile.TemporaryDirectory() as folder, _chromium() as browser:
        assemble(Path(folder) / "page", checkpoint, weights)
        _add_modules(Path(folder) / "page")
        with (
            _served(Path(folder) / "page") as address,
            _engine(browser, address) as page,
        ):
            found = _agreement(core, page, sounds)
    print(
        f"{weights}: {found.equal_sounds} of {found.sounds} sounds equal, "
        f"{found.equal_decisions} of {found.decisions} decisions, {found.tokens} tokens; "
        f"logits at most {found.farthest:.1e} apart"
    )
    for difference in found.differences:
        print(f"  {difference}")


def report_page_engine(minutes: float, data: Path | None) -> None:
    """Print sizes, times and memory of the page that holds the model, and where it differs.

    Args:
        minutes: of the conversation whose memory is measured.
        data: recordings, of which held-out ones are compared as well; None for the gallery alone.
    """
    checkpoint = load_checkpoint(EMBEDDED, device="cpu", dtype="float32")
    sounds = _gallery()
    with tempfile.TemporaryDirectory() as name, _chromium() as browser:
        folder = Path(name) / "page"
        assemble(folder, checkpoint)
        built = folder / "live" / "engine" / "built"
        weights = sum(path.stat().st_size for path in built.glob("*.onnx.gz"))
        engine = size_of(built) - weights
        print(
            f"Download: {size_of(folder) / 1e6:.1f} MB in all, {engine / 1e6:.1f} MB of it the "
            f"engine, {weights / 1e6:.1f} MB weights"
        )
        _add_modules(folder)
        with _served(folder) as address:
            cold, warm = _starts(browser, address)
            print(f"From the click to listening: {cold:.1f} s, at a second visit {warm:.1f} s")
            with _engine(browser, address) as page:
                _report_pace(page, _looped(sounds, PACE_MINUTES * 60))
                _report_memory(page, sounds, minutes)
    compared = sounds + (_held_out_clips(data) if data is not None else [])
    for weight_format in WeightFormat:
        _report_format(checkpoint, weight_format, compared)
    print()
