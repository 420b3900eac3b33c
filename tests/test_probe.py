"""Probing: what conditions do to sound, what is concluded, and a probe that goes on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import app
from backend.config import CHUNK_SECONDS, SAMPLE_RATE_HZ
from backend.errors import AudioInputError, CheckpointError
from study import probe as probing
from study.clips import SAMPLES_FOLDER, audible_span, find_clips, levels_of, sample_clips
from study.conditions import Axis, Condition, conditions, expose
from study.probe import HeardClip, HeardStore, Probed, checkpoints_of, first_that_speaks, judged

OF_NAME = {condition.name: condition for condition in conditions()}


@pytest.fixture(scope="module")
def seven() -> np.ndarray:
    return next(clip for clip in sample_clips() if "seven" in clip.name).read()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two recordings."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("digit_five.ogg", "digit_seven.ogg"):
        shutil.copy(SAMPLES_FOLDER / name, folder)
    (folder / "notes.txt").write_text("none")
    return folder


def exposed(samples: np.ndarray, name: str) -> np.ndarray:
    return expose(samples, audible_span(samples), "clip", OF_NAME[name]).chunks.ravel()


def band_db(sound: np.ndarray, low_hz: float, high_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(sound)) ** 2
    frequencies = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ)
    inside = (frequencies >= low_hz) & (frequencies < high_hz)
    return float(10 * np.log10(spectrum[inside].sum()))


def test_conditions_do_what_they_say(seven: np.ndarray) -> None:
    plain = exposed(seven, "unchanged")
    levels = levels_of(plain)
    loud = levels[levels >= levels.max() / 1000].mean()
    noise = exposed(seven, "noise +10 dB") - plain
    # The room is drawn first, and is the same only where the name is: the noise is far above it.
    assert 10 * np.log10(loud / np.mean(noise**2)) == pytest.approx(10, abs=0.5)
    quiet = exposed(seven, "gain -20 dB")
    assert np.abs(quiet).max() == pytest.approx(np.abs(plain).max() / 10, rel=0.05)
    assert np.abs(exposed(seven, "gain +10 dB")).max() <= 1
    assert (exposed(seven, "gated silence")[: SAMPLE_RATE_HZ // 2] == 0).all()
    assert (plain[: SAMPLE_RATE_HZ // 2] != 0).any()
    telephone = exposed(seven, "band telephone")
    for low_hz, high_hz in ((50, 150), (6000, 8000)):
        assert band_db(telephone, low_hz, high_hz) < band_db(plain, low_hz, high_hz) - 15
    assert band_db(telephone, 500, 3000) == pytest.approx(band_db(plain, 500, 3000), abs=1)
    onsets = [expose(seven, (0.0, 1.0), "clip", OF_NAME[name]).onset_seconds
              for name in ("unchanged", "offset in a chunk 240 ms")]  # fmt: skip
    assert onsets[1] - onsets[0] == pytest.approx(0.24)
    assert np.abs(exposed(seven, "clipping 20 dB")).max() < np.abs(plain).max() / 5
    again = exposed(seven, "noise +10 dB") - plain
    assert (again == noise).all()


def heard(answers: Callable[[Condition], float]) -> list[HeardClip]:
    """Of ten clips, the share that `answers` says is answered half a second after its end."""
    found = []
    for condition in conditions():
        num_clips = 1 if condition.axis is Axis.NOTHING else 10
        for number in range(num_clips):
            peak = 0.9 if number < answers(condition) * num_clips else 0.2
            values = (0.01, 0.01, 0.01, 0.01, peak, 0.1)
            wants_reply = condition.axis is not Axis.NOTHING
            found.append(
                HeardClip(
                    "x",
                    str(number),
                    "",
                    condition.axis,
                    condition.value,
                    wants_reply,
                    0.8,
                    1.5,
                    values,
                )
            )
    return found


def verdict(answers: Callable[[Condition], float]) -> str:
    return "; ".join(concluded(answers).verdict)


def concluded(answers: Callable[[Condition], float]) -> Probed:
    return judged("mine", "x", 0.5, heard(answers), conditions())


def test_the_verdict_says_what_is_too_much() -> None:
    def weak(condition: Condition) -> float:
        number = condition.number or 0
        match condition.axis:
            case Axis.NOTHING:
                return float("-40" in condition.value)
            case Axis.NOISE:
                return 0.9 if number >= 10 else 0.2
            case Axis.GAIN:
                return 0.3 if number <= -30 else 1.0
            case Axis.GATED:
                return 0.0
        return 0.9

    said = verdict(weak)
    assert "answers 9 of 10 clips, in the median 0.5 s after their end" in said
    assert "silent below 10 dB of speech above noise (2 of 10)" in said
    assert "deaf to quiet speech from -30 dB on: turn the microphone up (3 of 10)" in said
    assert "afraid of digital zero" in said
    assert "speaks up at nothing: hiss of -40 dBFS" in said
    assert "clipping" not in said


def test_the_verdict_on_one_that_stands_everything_and_on_one_that_is_silent() -> None:
    assert "holds under every condition" in verdict(lambda c: c.axis is not Axis.NOTHING)
    said = verdict(lambda c: 0.4 if c.axis is Axis.GAIN and c.number == 10 else 0.0)
    assert "silent: answers 0 of 10 clips" in said
    assert "speaks most with gain +10 dB: 4 of 10" in said
    silent, speaking = concluded(lambda _: 0.0), concluded(lambda _: 1.0)
    assert first_that_speaks([silent, speaking]) == "the first checkpoint that speaks: mine"
    assert first_that_speaks([silent]) == "none of 1 checkpoints speaks"


def test_a_reply_before_anything_was_heard_answers_nothing() -> None:
    values = (0.9, 0.9, 0.1, 0.1, 0.1, 0.1)
    early = HeardClip("x", "c", "", "unchanged", "", True, 1.0, 2.0, values)
    assert early.speaks_at(0.5) is None
    assert early.speaks_at(0.05) == pytest.approx(3 * CHUNK_SECONDS)


def _heard(lines: str) -> list[dict[str, Any]]:
    """What was heard, in one order."""
    heard = [json.loads(line) for line in lines.splitlines()]
    return sorted(heard, key=lambda one: (one["clip"], one["axis"], one["value"]))


def test_a_probe_goes_on_where_it_broke_off(
    clips: Path,
    golden_checkpoint_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A released checkpoint's folder, probed twice; the second time only what was lost."""
    few = [c for c in conditions() if c.axis in (Axis.UNCHANGED, Axis.GAIN, Axis.NOTHING)]
    monkeypatch.setattr(probing, "conditions", lambda: few)
    out = tmp_path / "out"
    command = ["probe", str(clips), "--checkpoint", str(golden_checkpoint_dir), "--out", str(out)]
    command += ["--figure", "svg", "--json", "--sessions", "3"]
    assert app.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    whole = (out / "heard.jsonl").read_text()
    assert len(whole.splitlines()) == 2 * 6 + 4
    assert [row["clips"] for row in report["rows"]] == [2] * 6 + [1] * 4
    assert report["verdict"]
    assert "<svg" in (out / "probe.svg").read_text()
    assert (out / "table.csv").read_text().startswith("checkpoint,axis,value,")

    kept = whole.splitlines(keepends=True)[:9]
    (out / "heard.jsonl").write_text("".join(kept) + whole.splitlines()[9][:40])
    assert app.main(command) == 0
    assert json.loads(capsys.readouterr().out) == report
    after = (out / "heard.jsonl").read_text()
    assert after.startswith("".join(kept))
    # Beside other clips the same sound is rounded otherwise: by a millionth.
    for again, before in zip(_heard(after), _heard(whole), strict=True):
        assert again.pop("probabilities") == pytest.approx(before.pop("probabilities"), abs=1e-5)
        assert again == before


def test_the_checkpoints_of_a_run_come_in_the_order_of_their_steps(
    golden_checkpoint_dir: Path,
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step in (1000, 900):
        (run / f"step-{step}").symlink_to(golden_checkpoint_dir)
    (run / "step-20").mkdir()
    (run / "step-20" / "model_config.yaml").write_text("n_embd: few")
    found = checkpoints_of(str(run))
    assert [Path(path).name for path in found] == ["step-20", "step-900", "step-1000"]
    command = ["probe", str(clips), "--checkpoint", str(run), "--out", str(tmp_path / "out")]
    # The broken one is named, and the others are probed.
    assert app.main([*command, "--first"]) == 1
    captured = capsys.readouterr()
    assert "step-20: " in captured.err
    assert "checkpoint" in captured.out
    with pytest.raises(CheckpointError, match="is no checkpoint, and none of its folders is"):
        checkpoints_of(str(clips))


def test_what_cannot_be_probed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AudioInputError, match="holds no audio"):
        find_clips([tmp_path], [])
    with pytest.raises(AudioInputError, match="is not there"):
        find_clips([tmp_path / "none.wav"], [])
    shutil.copy(SAMPLES_FOLDER / "rain.ogg", tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"path": "rain.ogg", "decision": "IGNORE"}, {"path": "lost.wav", "decision": "RESPOND"}]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems: list[str] = []
    (rain,) = find_clips([manifest], problems)
    assert not rain.wants_reply
    assert "lost.wav" in problems[0]
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    assert app.main(["probe", str(tmp_path / "silent.wav"), "--out", str(tmp_path / "out")]) == 2
    assert "only silence" in capsys.readouterr().err


def test_a_full_disk_is_said_and_what_was_heard_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HeardStore(tmp_path)
    first, second = heard(lambda _: 1.0)[:2]
    store.add(first)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(Exception, match=r"No space left on device; what was heard .* kept"):
            store.add(second)
    (kept,) = (tmp_path / "heard.jsonl").read_text().splitlines()
    assert json.loads(kept)["clip"] == first.clip
