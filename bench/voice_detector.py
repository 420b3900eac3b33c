"""What the voice detector costs, for one stream alone."""

import itertools
import statistics
import time
from collections.abc import Iterable

import numpy as np

from backend.audio import Samples, read_audio
from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.conversation.voice_activity import (
    CONTEXT_SAMPLES,
    NETWORK_STATE,
    VOICE_WINDOW_SAMPLES,
    SpeechDetector,
    network,
)
from backend.engine.cost import noise_chunks
from bench.samples import endless_talk, recordings_under

SECONDS = 120
WINDOWS_PER_CHUNK = CHUNK_SAMPLES / VOICE_WINDOW_SAMPLES


def measure_detector(chunks: Iterable[Samples]) -> list[float]:
    """CPU milliseconds of each chunk `[6400]` of one stream."""
    detector = SpeechDetector()
    costs = []
    for chunk in chunks:
        began = time.thread_time()
        detector.push(chunk)
        costs.append((time.thread_time() - began) * 1000)
    return costs


def measure_network(num_windows: int) -> float:
    """CPU milliseconds of Silero's network alone for a window `[512]`, the median."""
    heard = CONTEXT_SAMPLES + VOICE_WINDOW_SAMPLES
    given = {
        "input": np.random.default_rng(0).normal(0, 0.01, (1, heard)).astype(np.float32),
        "state": np.zeros(NETWORK_STATE, np.float32),
        "sr": np.array(SAMPLE_RATE_HZ),
    }
    costs = []
    for _ in range(num_windows):
        began = time.thread_time()
        network().run(None, given)
        costs.append((time.thread_time() - began) * 1000)
    return statistics.median(costs)


def voices_without_pause() -> Iterable[Samples]:
    """Chunks `[6400]` of the voices among the repository's recordings, again and again."""
    voices = np.concatenate([read_audio(path) for path in recordings_under(None)])
    whole = len(voices) // CHUNK_SAMPLES * CHUNK_SAMPLES
    return itertools.cycle(voices[:whole].reshape(-1, CHUNK_SAMPLES))


def report_detector(seconds: float = SECONDS) -> None:
    """Print what the voice detector costs per chunk of one conversation."""
    num_chunks = round(seconds / CHUNK_SECONDS)
    print(f"The voice detector for one stream alone, CPU milliseconds per {CHUNK_SECONDS} s chunk")
    print(f"{'':<24}{'p50':>8}{'p95':>8}{'mean':>8}{f'mean of {CHUNK_SECONDS} s':>16}")
    for label, chunks in (
        ("steady noise", noise_chunks(num_chunks)),
        ("talk with pauses", endless_talk()),
        ("voices without a pause", voices_without_pause()),
    ):
        costs = measure_detector(itertools.islice(chunks, num_chunks))
        p50, p95 = np.percentile(costs, [50, 95])
        mean = statistics.fmean(costs)
        share = mean / (1000 * CHUNK_SECONDS)
        print(f"{label:<24}{p50:>8.2f}{p95:>8.2f}{mean:>8.2f}{share:>16.2%}")
    floor = WINDOWS_PER_CHUNK * measure_network(round(num_chunks * WINDOWS_PER_CHUNK))
    print(
        f"Floor where every window is judged: {floor:.2f}, "
        f"{WINDOWS_PER_CHUNK:g} times Silero's network for a window\n"
    )
