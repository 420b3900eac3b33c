"""Every measurement runs on a tiny setting and prints what it found."""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config import CHUNK_SAMPLES, EngineConfig
from backend.engine import Engine
from backend.model.checkpoint import Checkpoint
from backend.recordings.reader import SessionFile
from backend.recordings.replay import TIE_LOGITS
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from bench.__main__ import main
from bench.errors import BenchError
from bench.forks import (
    Delays,
    ForkFigures,
    fork_again_and_again,
    measure_forks,
    show_forks,
)
from bench.load import (
    LoadFigures,
    is_within,
    measure_load,
    search,
    show,
    show_answers,
    show_header,
    worktree,
)
from bench.memory import measure_memory, show_memory
from bench.quiet import CpuTimes, require_quiet
from bench.recording import measure_recording, show_recording
from bench.rounding import Deviation, clips, measure_rounding, show_rounding
from bench.serving import Served, health
from bench.talkers import Load, Talked, talk
from bench.voice_detector import measure_detector, report_detector
from bench.wires import WIRES, measure_wires, show_wires
from tests.scripted import ScriptedEngine
from tests.serving import serving

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def served(
    embedded_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    options = ServingOptions(recordings=StoreOptions(tmp_path_factory.mktemp("recordings")))
    with (
        Engine(embedded_checkpoint, EngineConfig(num_slots=2)) as engine,
        serving(engine, options=options) as address,
    ):
        yield Served(address, os.getpid())


def test_decisions_are_timed_without_and_with_forks(served: Served, capsys: Capture) -> None:
    figures = asyncio.run(measure_forks(served.address, num_conversations=2, seconds=0.8))
    for delays in (figures.alone, figures.beside):
        assert len(delays.milliseconds) == 4
        for delay, step in zip(delays.milliseconds, delays.step_milliseconds, strict=True):
            assert 0 < step < delay
    show_forks(figures)
    assert "times as long" in capsys.readouterr().out


async def test_forks_go_on_and_are_counted(served: Served) -> None:
    figures = ForkFigures()
    forking = asyncio.ensure_future(fork_again_and_again(served.address, figures))
    while not figures.num_forked_chunks:
        assert not forking.done(), forking.result()
        await asyncio.sleep(0.01)
    forking.cancel()


async def test_a_server_that_does_not_fork_is_no_measurement() -> None:
    with (
        serving(ScriptedEngine([])) as address,
        pytest.raises(BenchError, match="another checkpoint"),
    ):
        await fork_again_and_again(address, ForkFigures())


def test_a_decision_is_late_when_the_next_chunk_has_come() -> None:
    assert Delays([399.0, 401.0, 900.0], [1.0, 1.0, 1.0]).num_late == 2


def test_talkers_are_heard_in_real_time(served: Served, capsys: Capture) -> None:
    talked = talk(served, Load(num_talkers=2, seconds=1.2))
    assert len(talked.late_ms) == 2 * 3
    assert len(talked.own_ms) == 2 * 12
    assert talked.num_missing == 0
    assert min(talked.late_ms) > 0
    show_header(has_label=True)
    show(2, LoadFigures(talked, others_cores=1.0), "here")
    printed = capsys.readouterr().out
    assert re.search(r"^here +2( +\d+){6}( +\d+\.\d+){3} .*NOT ALONE", printed, re.MULTILINE)
    assert health(served)["session_limit"] == 2


def test_more_talkers_than_places_are_no_measurement(served: Served) -> None:
    with pytest.raises(BenchError, match="2 places for 3 talkers"):
        measure_load(served, Load(num_talkers=3, seconds=0.4))


def figures(p95_ms: float, *, num_missing: int = 0, ending_ms: float = 1.0) -> LoadFigures:
    talked = Talked([p95_ms] * 20, [ending_ms], [0.0], num_missing)
    return LoadFigures(talked, others_cores=0.0)


def test_a_server_that_gets_later_and_later_is_said_to_fall_behind(capsys: Capture) -> None:
    assert is_within(figures(90), 100)
    assert not is_within(figures(110), 100)
    for behind in (figures(90, num_missing=1), figures(90, ending_ms=401.0)):
        assert not is_within(behind, 100)
        show(1, behind, "")
        assert capsys.readouterr().out.endswith("falls behind\n")


@pytest.mark.parametrize("true_most", [0, 1, 3, 4, 17, 40, 127, 128])
def test_a_search_finds_how_many_are_served_in_time(true_most: int, capsys: Capture) -> None:
    tried: dict[int, LoadFigures] = {}

    def at(num_talkers: int) -> LoadFigures:
        assert 0 < num_talkers <= 128
        tried[num_talkers] = figures(90 if num_talkers <= true_most else 110)
        return tried[num_talkers]

    search(at, 100, most=128)
    found = max((number for number in tried if is_within(tried[number], 100)), default=0)
    assert true_most - max(1, true_most // 8) < found <= true_most
    assert len(tried) <= 10
    show_answers(tried, "")
    assert f"within 100 ms: {found} talkers" in capsys.readouterr().out


def test_a_commit_that_is_not_there_cannot_be_served() -> None:
    with pytest.raises(BenchError, match="no-such-commit"), worktree("no-such-commit"):
        pass


def test_work_of_others_is_all_that_is_not_ours() -> None:
    began = CpuTimes(at=10.0, busy=100.0, ours=40.0)
    assert began.others_cores(CpuTimes(at=12.0, busy=104.0, ours=43.0)) == 0.5
    assert began.others_cores(CpuTimes(at=12.0, busy=103.9, ours=44.0)) == 0.0


@pytest.mark.parametrize("others", [0.0, 1.5])
def test_a_busy_machine_is_found_out(others: float, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([CpuTimes(0.0, 100.0, 40.0), CpuTimes(1.0, 101.0 + others, 41.0)])
    monkeypatch.setattr("bench.quiet.CpuTimes.now", lambda: next(times))
    if not others:
        require_quiet(look_seconds=0.01)
        return
    with pytest.raises(BenchError, match=r"keeps 1\.5 of \d+ cores busy.*--busy-machine"):
        require_quiet(look_seconds=0.01)


def test_memory_is_looked_at_from_the_beginning_to_the_end(served: Served, capsys: Capture) -> None:
    figures = asyncio.run(measure_memory(served, minutes=0.04))
    assert [look.seconds for look in figures.looks] == pytest.approx([0, 2.4])
    assert min(look.resident_mib for look in figures.looks) > 100
    assert figures.packed_mib > 100
    assert figures.sound_mib == 6 * CHUNK_SAMPLES * 2 / 2**20
    show_memory(figures)
    assert "recording packed" in capsys.readouterr().out


def test_recording_is_counted_in_time_and_bytes(tmp_path: Path, capsys: Capture) -> None:
    figures = measure_recording(tmp_path, minutes=0.16)
    with SessionFile(tmp_path / "measured.aisession") as file:
        assert file.seconds == pytest.approx(figures.seconds)
        assert file.reply_turns, "a reply was spoken"
    assert figures.sound_bytes > 24 * CHUNK_SAMPLES * 2
    assert figures.live_bytes > figures.sound_bytes > figures.file_bytes > 0
    assert 0 < figures.callers_ms < figures.hearing_ms
    for milliseconds in (figures.thread_ms, figures.packing_ms, figures.story_ms):
        assert milliseconds > 0
    show_recording(figures)
    assert "of its sound as PCM" in capsys.readouterr().out


def test_a_batch_differs_by_less_than_a_tie(
    embedded_checkpoint: Checkpoint, capsys: Capture
) -> None:
    digits = clips(6)[3:6]
    figures = measure_rounding(embedded_checkpoint, digits)
    assert figures.decisions.num_tokens == 3 * 6
    assert figures.tokens.num_tokens > 0, "somebody was answered"
    for found in (figures.decisions, figures.tokens):
        assert found.logits < TIE_LOGITS[torch.float32]
        assert found.probability < 1e-3
    show_rounding(torch.float32, figures)
    assert re.match(r"float32, 18 decisions .*%\nfloat32, \d+ tokens ", capsys.readouterr().out)


def test_a_deviation_is_the_largest_between_two_likely_tokens() -> None:
    found = Deviation()
    alone = torch.zeros(50)
    alone[:20] = torch.arange(30.0, 10.0, -1)
    found.take(alone + 1, alone)
    assert found.logits == 0
    assert found.probability < 1e-6
    moved = alone.clone()
    moved[3] += 0.25
    moved[49] = 5.0
    found.take(moved, alone)
    found.take(alone, alone)
    assert found.logits == 0.25
    assert found.probability > 0
    assert (found.num_tokens, found.largest_logit) == (3, 30)


def test_the_voice_detector_is_timed_by_chunks(capsys: Capture) -> None:
    chunk = np.zeros(CHUNK_SAMPLES, np.float32)
    assert len(measure_detector([chunk] * 3)) == 3
    report_detector(seconds=2)
    printed = capsys.readouterr().out
    assert re.search(r"^voices without a pause( +\d+\.\d+){3} +\d", printed, re.MULTILINE)
    assert re.search(r"^Floor .*: \d+\.\d+, 12\.5 times", printed, re.MULTILINE)


def test_the_command_runs_the_sections_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "recording", "--minutes", "0.005", "--busy-machine"])
    main()
    printed = capsys.readouterr().out
    for label in ("those who tell the recorder", "the recorder's thread", "the file"):
        assert re.search(rf"^{label} +\d+\.\d+", printed, re.MULTILINE), printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["weather"], "no section weather; there are streaming, samples, live, hour, memory"),
        (["load", "--talkers", "0", "--busy-machine"], "--talkers wants numbers from 1 on"),
        (
            ["live", "--recordings", "nowhere", "--busy-machine"],
            "there are no recordings of utterances",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert problem in capsys.readouterr().err


def test_wires(capsys: Capture) -> None:
    with serving(ScriptedEngine([], num_slots=len(WIRES))) as address:
        alone, times = measure_wires(address, 2)
    show_wires(alone, times)
    printed = capsys.readouterr().out
    assert all(wire.name in printed for wire in WIRES)
    assert min(map(min, [alone, *times.values()])) > 0
