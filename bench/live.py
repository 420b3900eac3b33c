"""How long a conversation in a browser takes: `make bench`.

Chromium hears one long recording as its microphone and talks to a server of its own. What the page
sends, receives and plays is noted as it happens; the recording says when each utterance really
began and ended.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from backend.audio import Samples, read_audio
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from bench.errors import BenchError
from bench.serving import OFFLINE_VOICE, server
from study.clips import LEVELS_PER_SECOND, Levels, audible_span, levels_of

MICROPHONE_RATE_HZ = 48_000
PLAYBACK_RATE_HZ = 24_000

LEAD_SECONDS = 3.0
HEAR_OUT_SECONDS = 6.0
"""After an utterance: enough to decide, and to speak the reply to its end."""
INTERRUPT_SECONDS = 1.9
"""After an utterance that the next one interrupts the reply to: enough to begin it."""
NOISE = 3e-4
"""Of the room, beside a full scale of 1."""

ALIGN_SECONDS = 0.3
"""How far a stretch may be from where the whole recording says it is."""
KNOWN_AFTER_SECONDS = 0.4
"""After its onset, what is decided may be about an utterance, and before not."""

CHROMIUM_FLAGS = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

NEAR_SECONDS = 2.0
"""Only what happened so near in time tells how two clocks differ, as they drift apart."""
UNDECIDED_SECONDS = 3.0
"""The decisions about the last chunks may still have been on their way."""
ALIGN_WHOLE_SECONDS = 60.0
"""So much of the recording says how much later the page heard it."""
TEXT_DELTAS = ("response.output_text.delta", "response.output_audio_transcript.delta")

PAGE_SETTINGS = json.dumps({"speakReplies": True, "voice": OFFLINE_VOICE})


# The recording


@dataclass(frozen=True, slots=True)
class Utterance:
    """Where somebody speaks in the recording, in seconds of it."""

    onset_seconds: float
    end_seconds: float
    interrupts: bool
    """Whether it is meant to be spoken over the reply to the one before."""


def variants(recordings: Sequence[Samples], count: int, seed: int) -> Iterator[Samples]:
    """`count` utterances: the recordings in turn, and again a little faster, slower or quieter."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        recording = recordings[number % len(recordings)]
        if number >= len(recordings):
            rate_hz = SAMPLE_RATE_HZ * rng.uniform(0.94, 1.06)
            recording = soxr.resample(recording, rate_hz, SAMPLE_RATE_HZ)
            recording = recording * np.float32(10 ** (rng.uniform(-9, 0) / 20))
        yield recording


def compose(spoken: Sequence[Samples], seed: int) -> tuple[Samples, list[Utterance]]:
    """One recording of all utterances; every other long one is interrupted by the next."""
    rng = np.random.default_rng(seed)
    pieces = [np.zeros(round(LEAD_SECONDS * SAMPLE_RATE_HZ), np.float32)]
    num_samples = len(pieces[0])
    utterances: list[Utterance] = []
    interrupts = False
    for samples in spoken:
        onset, end = audible_span(samples)
        start = num_samples / SAMPLE_RATE_HZ
        utterances.append(Utterance(start + onset, start + end, interrupts))
        interrupts = not interrupts and end - onset >= 1.0
        # Where an utterance falls within a chunk is left to chance.
        silence = rng.uniform(0, CHUNK_SECONDS) - (len(samples) / SAMPLE_RATE_HZ - end)
        silence += INTERRUPT_SECONDS if interrupts else HEAR_OUT_SECONDS
        pause = np.zeros(max(0, round(silence * SAMPLE_RATE_HZ)), np.float32)
        pieces += [samples, pause]
        num_samples += len(samples) + len(pause)
    recording = np.concatenate(pieces)
    recording += rng.normal(scale=NOISE, size=len(recording)).astype(np.float32)
    return recording, utterances


def lateness(expected: Levels, heard: Levels) -> int:
    """How many 10 ms later `expected` lies in `heard`, for the best fit; below 0 where earlier."""
    loudness = np.sqrt(expected) - np.sqrt(expected).mean()
    fits = np.correlate(np.sqrt(heard), loudness, mode="full")
    return int(fits.argmax()) - (len(expected) - 1)


# What happened


@dataclass(frozen=True, slots=True)
class Sent:
    """A block of audio that the page sent."""

    end_seconds: float
    """Of all audio sent until then."""
    at_ms: float


@dataclass(frozen=True, slots=True)
class Received:
    """An event of the server's."""

    type: str
    response_id: str | None
    seconds: float | None
    """Of the audio that a decision is about."""
    at_ms: float


@dataclass(frozen=True, slots=True)
class Played:
    """What the page's playback reported."""

    kind: str
    response_id: str | None
    played_seconds: float
    """Of the reply, until then."""
    at_ms: float
    """When it could be heard."""


@dataclass(frozen=True, slots=True)
class Log:
    """Everything that was noted in the page; times are milliseconds of the page's clock."""

    sent: list[Sent]
    levels: Levels
    received: list[Received]
    played: list[Played]

    @classmethod
    def read(cls, noted: dict[str, Any]) -> "Log":
        """What `NOTE_TAKER` noted."""
        reports = noted["played"]
        arrived = np.array([report["at"] for report in reports])
        # From the audio thread's clock to the page's; messages come late, never early.
        offsets = arrived - [report["time"] * 1000 for report in reports]
        played_at = [
            report["time"] * 1000
            + offsets[np.abs(arrived - report["at"]) <= NEAR_SECONDS * 1000].min()
            + report["latency"] * 1000
            for report in reports
        ]
        return cls(
            sent=[Sent(*block) for block in noted["sent"]],
            levels=np.array(noted["levels"]),
            received=[
                Received(event["type"], event["response"], event["seconds"], event["at"])
                for event in noted["received"]
            ],
            played=[
                Played(report["kind"], report["id"], report["played"] / PLAYBACK_RATE_HZ, at_ms)
                for report, at_ms in zip(reports, played_at, strict=True)
            ],
        )

    def captured_ms(self, seconds: float) -> float:
        """When the page had captured its audio up to here."""
        # Blocks are sent late, never early.
        near = [block for block in self.sent if abs(block.end_seconds - seconds) <= NEAR_SECONDS]
        return seconds * 1000 + min(block.at_ms - block.end_seconds * 1000 for block in near)


@dataclass(slots=True)
class Figures:
    """What came out; lists are milliseconds."""

    num_utterances: int
    num_answered: int = 0
    num_answered_early: int = 0
    """Before their end, as in a pause; they count in no list."""
    decided: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)
    first_sound: list[float] = field(default_factory=list)
    num_interruptions: int = 0
    """Utterances that began while a reply was heard."""
    silent: list[float] = field(default_factory=list)
    num_underruns: int = 0
    played_seconds: float = 0.0
    num_chunks: int = 0
    num_lost_chunks: int = 0
    """Sent, but never decided about."""


def located(
    recording: Samples, utterances: Sequence[Utterance], heard: Levels
) -> list[Utterance | None]:
    """The utterances in seconds of the audio that the page sent; None where it did not."""
    levels = levels_of(recording)
    beginning = round(ALIGN_WHOLE_SECONDS * LEVELS_PER_SECOND)
    shift = lateness(levels[:beginning], heard[:beginning])
    slack = round(ALIGN_SECONDS * LEVELS_PER_SECOND)
    found: list[Utterance | None] = []
    for utterance in utterances:
        start = round((utterance.onset_seconds - ALIGN_SECONDS) * LEVELS_PER_SECOND)
        end = round((utterance.end_seconds + ALIGN_SECONDS) * LEVELS_PER_SECOND)
        around = heard[max(0, start + shift - slack) : end + shift + slack]
        if start + shift - slack < 0 or end + shift + slack > len(heard):
            found.append(None)
            continue
        own_shift = (shift - slack + lateness(levels[start:end], around)) / LEVELS_PER_SECOND
        found.append(
            Utterance(
                utterance.onset_seconds + own_shift,
                utterance.end_seconds + own_shift,
                utterance.interrupts,
            )
        )
    return found


def figures_of(log: Log, utterances: Sequence[Utterance]) -> Figures:
    """What a log says about utterances whose places are in seconds of the audio sent."""
    figures = Figures(len(utterances))
    for number, decision in _answers(log, utterances).items():
        figures.num_answered += 1
        end_ms = log.captured_ms(utterances[number].end_seconds)
        if decision.at_ms < end_ms:
            figures.num_answered_early += 1
            continue
        figures.decided.append(decision.at_ms - end_ms)
        texts = [
            event.at_ms
            for event in log.received
            if event.type in TEXT_DELTAS and event.response_id == decision.response_id
        ]
        sounds = [
            report.at_ms
            for report in log.played
            if report.kind == "started" and report.response_id == decision.response_id
        ]
        figures.first_text += [at_ms - end_ms for at_ms in texts[:1]]
        figures.first_sound += [at_ms - end_ms for at_ms in sounds[:1]]
    for utterance in utterances:
        _measure_interruption(figures, log, log.captured_ms(utterance.onset_seconds))
    figures.num_underruns = sum(report.kind == "underrun" for report in log.played)
    played = {report.response_id: report.played_seconds for report in log.played}
    figures.played_seconds = sum(played.values())
    decided = {
        round(event.seconds / CHUNK_SECONDS) for event in log.received if event.seconds is not None
    }
    figures.num_chunks = int((log.sent[-1].end_seconds - UNDECIDED_SECONDS) / CHUNK_SECONDS)
    figures.num_lost_chunks = len(set(range(1, figures.num_chunks + 1)) - decided)
    return figures


def _answers(log: Log, utterances: Sequence[Utterance]) -> dict[int, Received]:
    """The first decision to speak about each utterance that has one, by its number."""
    known_seconds = [utterance.onset_seconds + KNOWN_AFTER_SECONDS for utterance in utterances]
    answers: dict[int, Received] = {}
    for event in log.received:
        if event.type == "response.speak" and event.seconds is not None:
            number = bisect_right(known_seconds, event.seconds) - 1
            if number >= 0:
                answers.setdefault(number, event)
    return answers


def _measure_interruption(figures: Figures, log: Log, onset_ms: float) -> None:
    playing = None
    for report in log.played:
        is_over = report.kind in ("held", "flushed", "ended")
        if report.at_ms < onset_ms:
            playing = None if is_over else report.response_id
        elif is_over and playing is not None and report.response_id == playing:
            figures.num_interruptions += 1
            if report.kind != "ended":
                figures.silent.append(report.at_ms - onset_ms)
            return


# The conversation

NOTE_TAKER = """
(() => {
  const notes = { sent: [], levels: [], received: [], played: [] };
  window.liveNotes = notes;
  let numSamples = 0;

  function noteAudio(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const pcm = new Int16Array(bytes.buffer);
    for (let start = 0; start + 160 <= pcm.length; start += 160) {
      let sum = 0;
      for (const value of pcm.subarray(start, start + 160)) sum += (value / 32768) ** 2;
      notes.levels.push(sum / 160);
    }
    numSamples += pcm.length;
    notes.sent.push([numSamples / 16000, performance.now()]);
  }

  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener('message', ({ data }) => {
        const event = JSON.parse(data);
        const metadata = event.metadata ?? event.response?.metadata;
        notes.received.push({
          type: event.type,
          response: event.response_id ?? event.response?.id ?? null,
          seconds: /^response.(listen|speak)$/.test(event.type) ? metadata.seconds : null,
          at: performance.now(),
        });
      });
    }

    send(data) {
      const event = JSON.parse(data);
      if (event.type === 'input_audio_buffer.append') noteAudio(event.audio);
      super.send(data);
    }
  };

  window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(context, name, options) {
      super(context, name, options);
      if (name !== 'playback') return;
      this.port.addEventListener('message', ({ data }) => {
        const { kind, id, played, time } = data;
        const latency = context.outputLatency ?? 0;
        notes.played.push({ kind, id, played, time, latency, at: performance.now() });
      });
    }
  };
})();
"""


def measure(recordings: Sequence[Samples], count: int, seed: int = 0) -> Figures:
    """Let a browser talk about `count` utterances with a server of its own.

    Raises:
        BenchError: there is no browser, or the server or the page does not start.
    """
    recording, utterances = compose([*variants(recordings, count, seed)], seed)
    with tempfile.TemporaryDirectory() as folder:
        microphone = Path(folder) / "microphone.wav"
        sound = soxr.resample(recording, SAMPLE_RATE_HZ, MICROPHONE_RATE_HZ)
        soundfile.write(microphone, sound, MICROPHONE_RATE_HZ, subtype="PCM_16")
        with server() as served:
            log = Log.read(_converse(served.address, microphone, len(recording) / SAMPLE_RATE_HZ))
    places = located(recording, utterances, log.levels)
    return figures_of(log, [place for place in places if place is not None])


def _converse(address: str, microphone: Path, seconds: float) -> dict[str, Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise BenchError("the browser needs `pip install -r requirements-dev.txt`") from error
    capture = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=system_chromium(), args=[*CHROMIUM_FLAGS, capture]
            )
        except Error as error:
            raise BenchError(f"no browser starts: {error.message}") from error
        page = browser.new_page()
        page.add_init_script(NOTE_TAKER)
        page.add_init_script(f"localStorage.setItem('audio-interaction-live', '{PAGE_SETTINGS}')")
        page.goto(f"http://{address}/")
        page.wait_for_selector("[data-ready]")
        page.click('[data-part="start"]')
        page.wait_for_timeout(1000 * (seconds + UNDECIDED_SECONDS))
        noted: dict[str, Any] = page.evaluate("window.liveNotes")
        browser.close()
        if not noted["sent"]:
            raise BenchError("the page did not start to listen")
        return noted


def system_chromium() -> str | None:
    """A Chromium of the system that really starts; None leaves the choice to Playwright.

    The shell, where there is one: a whole browser also draws a window that nobody sees.
    """
    for name in ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


# The report


def report_live(recordings: Sequence[Path], count: int) -> None:
    """Print how fast replies come and fall silent, over `count` utterances in Chromium.

    Raises:
        AudioInputError: a recording that cannot be read.
        BenchError: there are none, or as `measure`.
    """
    if not recordings:
        raise BenchError("there are no recordings of utterances")
    spoken = [read_audio(path) for path in recordings]
    load = os.getloadavg()[0]
    print(f"Live, {count} utterances in Chromium, {os.cpu_count()} CPUs of {platform.machine()}")
    figures = measure(spoken, count)
    print(f"{'milliseconds':<34}{'p50':>8}{'p95':>8}{'most':>8}{'count':>8}")
    for label, values in (
        ("end of utterance to decision", figures.decided),
        ("end of utterance to first text", figures.first_text),
        ("end of utterance to first sound", figures.first_sound),
        ("onset of barge-in to silence", figures.silent),
    ):
        print(f"{label:<34}{_quantiles(values)}{len(values):>8}")
    print(
        f"Answered: {figures.num_answered} of {figures.num_utterances}, "
        f"{figures.num_answered_early} of them before their end\n"
        f"Interrupted while a reply was heard: {figures.num_interruptions}, "
        f"{len(figures.silent)} of them fell silent\n"
        f"Underruns: {figures.num_underruns} in {figures.played_seconds:.0f} s of playback, "
        f"{figures.num_underruns * 3600 / max(figures.played_seconds, 1):.1f} an hour\n"
        f"Chunks lost: {figures.num_lost_chunks} of {figures.num_chunks}\n"
        f"Load before and after: {load:.1f}, {os.getloadavg()[0]:.1f}\n"
    )


def _quantiles(values: Sequence[float]) -> str:
    if not values:
        return f"{'-':>8}" * 3
    return "".join(f"{value:>8.0f}" for value in (*np.percentile(values, [50, 95]), max(values)))
