"""How turns are taken: beside Smart Turn v3, and as Full-Duplex-Bench looks at it.

Smart Turn (BSD-2, in pipecat's wheel) is asked as pipecat asks it: once a voice has been silent for
0.2 s. It knows nothing but turns, of any speech; the embedded checkpoint also knows what to reply,
and speaks only of its world. Both hear the same clips.
"""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import soxr

from backend.audio import Samples, float_to_pcm16
from backend.config import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    GREEDY,
    SAMPLE_RATE_HZ,
    EngineConfig,
    SessionSettings,
)
from backend.engine.core import EngineCore
from backend.engine.cost import run_steps
from backend.events import Decision
from backend.model.checkpoint import load_checkpoint
from bench.serving import REPOSITORY, server
from study.judge import PAUSE_SECONDS, ROOM, find_voices
from study.judged import RATE_HZ

LEAD_SECONDS = 0.8
END_SECONDS = 1.2
"""So long after an utterance's last sound its end has to be told."""
ASKED_AFTER_SECONDS = 0.2
LONG_ENOUGH_SECONDS = 1.0
"""A shorter utterance has no place for a pause."""


def report_duplex(sources: Path | None, checkpoint: str, folder: Path) -> None:
    """Print what Full-Duplex-Bench's rules say of a server, whose samples are left in `folder`."""
    clips = [] if sources is None else ["--clips", str(sources)]
    with server("--checkpoint", checkpoint, "--no-recordings") as served:
        command = ["app.py", "duplex-bench", f"ws://{served.address}", "--out", str(folder)]
        subprocess.run([sys.executable, *command, *clips], cwd=REPOSITORY, check=True)


@dataclass(frozen=True, slots=True)
class TurnEnds:
    """What somebody makes of utterances and of pauses in them."""

    told_after: tuple[float | None, ...]
    """Seconds from each utterance's last sound until its end is told; None: it is not."""
    waits: tuple[bool, ...]
    """Of each pause, whether it is waited for what comes after it."""

    def line(self, name: str) -> str:
        """For a table."""
        told = [seconds for seconds in self.told_after if seconds is not None]
        after = f"{median(told):.2f} s" if told else "-"
        return (
            f"{name:<26}{len(told):>4} of {len(self.told_after):<6}"
            f"{sum(self.waits):>4} of {len(self.waits):<8}{after}"
        )


def report_turn_end(sources: Path | None, checkpoint: str) -> None:
    """Print how many ends and pauses are told from each other, by whom."""
    problems: list[str] = []
    voices = find_voices([] if sources is None else [sources], problems)
    whole = [_at_16_khz(voice.samples) for voice in voices]
    halves = [
        (_at_16_khz(before), _at_16_khz(after))
        for voice in voices
        if voice.seconds >= LONG_ENOUGH_SECONDS
        for before, after in [voice.halves]
    ]
    print("\n".join([*problems, f"{'':<26}{'ends told':<14}{'pauses waited':<16}after (median)"]))
    core = EngineCore(load_checkpoint(checkpoint, device="cpu"), EngineConfig(num_slots=1))
    print(_by_model(core, whole, halves).line("this model"))
    smart = asyncio.run(_by_smart_turn(whole, halves))
    print(smart.line(f"Smart Turn v3, {ASKED_AFTER_SECONDS} s on"), flush=True)


def _at_16_khz(samples: Samples) -> Samples:
    return soxr.resample(samples, RATE_HZ, SAMPLE_RATE_HZ).astype(np.float32)


def _by_model(
    core: EngineCore, whole: Sequence[Samples], halves: Sequence[tuple[Samples, Samples]]
) -> TurnEnds:
    lead = round(LEAD_SECONDS * SAMPLE_RATE_HZ)
    told_after = []
    for voice in whole:
        end = LEAD_SECONDS + len(voice) / SAMPLE_RATE_HZ
        parts: list[Samples | int] = [lead, voice, 2 * SAMPLE_RATE_HZ]
        spoken = [at for at in _speaks(core, parts) if at >= end]
        told_after.append(spoken[0] - end if spoken and spoken[0] - end <= END_SECONDS else None)
    waits = []
    for before, after in halves:
        paused = LEAD_SECONDS + len(before) / SAMPLE_RATE_HZ
        parts = [lead, before, round(PAUSE_SECONDS * SAMPLE_RATE_HZ), after, SAMPLE_RATE_HZ]
        goes_on = paused + PAUSE_SECONDS
        waits.append(not any(at <= goes_on for at in _speaks(core, parts)))
    return TurnEnds(tuple(told_after), tuple(waits))


def _speaks(core: EngineCore, parts: Sequence[Samples | int]) -> list[float]:
    """At the ends of which chunks the model speaks up, in seconds; a number is so much quiet."""
    room = np.random.default_rng(0)
    sound = np.concatenate(
        [np.zeros(part, np.float32) if isinstance(part, int) else part for part in parts]
    )
    sound = sound + room.normal(0, ROOM, len(sound)).astype(np.float32)
    chunks = np.pad(sound, (0, -len(sound) % CHUNK_SAMPLES)).reshape(-1, CHUNK_SAMPLES)
    session = core.open(SessionSettings(sampling=GREEDY))
    for chunk in chunks:
        core.hear(session, chunk)
    decisions = [event for event in run_steps(core) if isinstance(event, Decision)]
    core.close(session)
    return [(number + 1) * CHUNK_SECONDS for number, made in enumerate(decisions) if made.speak]


async def _by_smart_turn(
    whole: Sequence[Samples], halves: Sequence[tuple[Samples, Samples]]
) -> TurnEnds:
    return TurnEnds(
        tuple([ASKED_AFTER_SECONDS if await _is_complete(voice) else None for voice in whole]),
        tuple([not await _is_complete(before) for before, _ in halves]),
    )


async def _is_complete(spoken: Samples) -> bool:
    # It greets whoever imports it, and takes seconds.
    from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
    from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3

    analyzer = LocalSmartTurnAnalyzerV3(sample_rate=SAMPLE_RATE_HZ)
    analyzer.set_sample_rate(SAMPLE_RATE_HZ)
    quiet = np.zeros(round(ASKED_AFTER_SECONDS * SAMPLE_RATE_HZ), np.float32)
    analyzer.append_audio(float_to_pcm16(spoken), is_speech=True)
    analyzer.append_audio(float_to_pcm16(quiet), is_speech=False)
    state, _ = await analyzer.analyze_end_of_turn()
    await analyzer.cleanup()  # type: ignore[no-untyped-call]  # pipecat's has no annotation
    return bool(state is EndOfTurnState.COMPLETE)
