"""Samples in Full-Duplex-Bench's layout: what is in them, and what its rules say of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import app
from backend.config import SAMPLE_RATE_HZ
from study import duplex_bench
from study import judge as judging
from study.clips import SAMPLES_FOLDER
from study.duplex_bench import DuplexTask, SpokenWord, samples_of, takes_turn, words_of
from study.judge import JudgeLog, TextAt, find_voices
from study.judged import RATE_HZ
from tests.test_judge import answering, tone

ORDER = SAMPLES_FOLDER / "order_small_latte_double_shot.ogg"
DIGIT = SAMPLES_FOLDER / "digit_seven.ogg"


def words(*times: tuple[float, float]) -> list[SpokenWord]:
    return [SpokenWord("so", start, end) for start, end in times]


def test_what_is_short_and_of_few_words_takes_no_turn() -> None:
    assert not takes_turn([])
    assert not takes_turn(words((1.0, 1.2), (1.3, 1.5), (1.6, 1.9)))
    assert takes_turn(words((1.0, 1.2), (1.8, 2.0)))
    assert takes_turn(words(*((1 + n / 10, 1.1 + n / 10) for n in range(4))))


def test_samples_hold_what_their_notes_say() -> None:
    samples = list(samples_of(find_voices([ORDER, DIGIT], [])))
    by_task = {task: [s for s in samples if s.task is task] for task in DuplexTask}
    # A word said alone has no place for a pause.
    assert [len(found) for found in by_task.values()] == [1, 2, 2, 2, 2, 2, 2]
    (paused,) = by_task[DuplexTask.PAUSE]
    note: Any = paused.notes["pause.json"]
    start, end = (round(seconds * RATE_HZ) for seconds in note[0]["timestamp"])
    a_millisecond = RATE_HZ // 1000
    assert not paused.sound[start + a_millisecond : end - a_millisecond].any()
    assert np.abs(paused.sound[end : end + RATE_HZ // 2]).max() > 0.01
    for sample in by_task[DuplexTask.OVER_BACKGROUND]:
        note = sample.notes["metadata.json"]
        start, end = (round(seconds * RATE_HZ) for seconds in note["timestamps"])
        assert not sample.sound[end + 1 :].any()
        assert 0 < np.abs(sample.sound[start:end]).max() < 0.5 * np.abs(sample.sound[:start]).max()


def test_words_lie_where_the_reply_was_heard_and_end_where_it_was_cut() -> None:
    log = JudgeLog(texts=[TextAt(5.0, "a", "one two "), TextAt(5.1, "a", "three")])
    log.player.play(5.0, "a", tone(1.4))
    spoken = words_of(log, 4.0, 9.0)
    assert [word.text for word in spoken] == ["one", "two", "three"]
    assert spoken[0].start == pytest.approx(1.0)
    assert spoken[1].start == pytest.approx(1.4)
    assert spoken[-1].end == pytest.approx(2.4)
    log.player.stop(5.5)
    cut = words_of(log, 4.0, 9.0)
    assert [word.text for word in cut] == ["one", "two"]
    assert [word.end for word in cut] == pytest.approx([1.4, 1.5])
    assert np.flatnonzero(log.player.track(4.0, 9.0)).max() <= 1.5 * RATE_HZ


def test_voices_are_found_as_the_benchmark_finds_them(tmp_path: Path) -> None:
    (voice,) = find_voices([ORDER], [])
    samples = next(iter(samples_of([voice, voice])))
    duplex_bench._write_sound(tmp_path / "input.wav", samples.sound)
    duplex_bench._write_sound(tmp_path / "output.wav", np.roll(samples.sound, 4 * RATE_HZ))
    overlaps, ((end, begins),) = duplex_bench.overlaps_and_gaps(tmp_path)
    assert overlaps == []
    assert end == pytest.approx(voice.seconds, abs=0.25)
    assert begins == pytest.approx(4.0, abs=0.3)


def test_a_server_is_talked_with_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judging, "LEAD_SECONDS", 0.0)
    monkeypatch.setattr(duplex_bench, "OVER_SECONDS", 0.1)
    monkeypatch.setattr(duplex_bench, "ANSWER_SECONDS", 1.0)
    out = tmp_path / "samples"
    with answering() as address:
        command = ["duplex-bench", address, "--clips", str(DIGIT), "--out", str(out), "--json"]
        assert app.main(command) == 0
        found = json.loads(capsys.readouterr().out)
        written = (out / DuplexTask.TURN / "1" / "output.wav").stat().st_mtime_ns
        assert app.main(command) == 0
        assert (out / DuplexTask.TURN / "1" / "output.wav").stat().st_mtime_ns == written
        # Another server's samples are not mixed with these.
        assert app.main(["duplex-bench", "ws://127.0.0.1:9", "--out", str(out)]) == 2
        assert "take a new one" in capsys.readouterr().err
    assert found[DuplexTask.TURN] == {"samples": 1, "takes_turn": 0, "latency": None}
    folder = out / DuplexTask.OVER_BACKCHANNEL / "1"
    assert {path.name for path in folder.iterdir()} == {
        *("input.wav", "output.wav", "output.json", "metadata.json"),
        *("clean_input.wav", "clean_output.wav", "clean_output.json"),
    }
    heard, rate = soundfile.read(out / DuplexTask.INTERRUPTION / "1" / "output.wav")
    assert rate == SAMPLE_RATE_HZ
    assert np.abs(heard).max() > 0.1
    assert app.main(["duplex-bench", "--out", str(tmp_path / "nothing")]) == 2
    assert "holds no samples" in capsys.readouterr().err
