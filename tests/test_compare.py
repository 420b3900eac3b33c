"""Two sides of the same sound: what is told apart, and how sure that is."""

import json
from pathlib import Path

import pytest

import app
from backend.events import TurnDone, TurnStatus
from backend.recordings.transcript import RecordedReply
from study.clips import SAMPLES_FOLDER
from study.compare import Agreed, paired

CONVERSATION = Path(__file__).parents[1] / "assets" / "gallery" / "conversation.aisession"


def said(chunk: int, text: str = "yes") -> RecordedReply:
    return RecordedReply.of(TurnDone(0, chunk, text, None, TurnStatus.COMPLETED))


def test_the_interval_is_wilson_s() -> None:
    """The values are those of Newcombe, Statistics in Medicine 17 (1998), table I."""
    assert Agreed(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Agreed(0, 20).interval == pytest.approx((0, 0.1611), abs=5e-5)
    assert Agreed(1, 29).interval == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert Agreed(0, 0).interval == (0, 1)


def test_replies_are_paired_with_the_nearest() -> None:
    one, two, near, far = said(10), said(11), said(12), said(30)
    assert paired([one], [two]) == [(one, two)]
    assert paired([near], [one, near]) == [(None, one), (near, near)]
    assert paired([one, near], [near]) == [(one, None), (near, near)]
    assert paired([one], [far]) == [(one, None), (None, far)]
    assert paired([], []) == []


def test_two_settings_on_a_session_and_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "strips.svg"
    files = [str(SAMPLES_FOLDER / "digit_seven.ogg"), str(tmp_path / "lost.wav")]
    command = ["compare", *files, "--other-decision-bias", "-8", "--figure", str(figure), "--json"]
    # The second file is named, and the first is compared all the same.
    assert app.main(command) == 1
    captured = capsys.readouterr()
    assert "lost.wav" in captured.err
    comparison, agreement = map(json.loads, captured.out.splitlines())
    assert [reply["text"] for reply in comparison["left"]["replies"]] == ["You said seven."]
    assert comparison["right"]["replies"] == []
    assert len(comparison["differ_at"]) == 1
    # The bias moves the threshold, not what is heard before it.
    chunk = comparison["differ_at"][0]
    sides = comparison["left"], comparison["right"]
    assert sides[0]["probabilities"][chunk] == pytest.approx(sides[1]["probabilities"][chunk])
    assert sides[0]["thresholds"][chunk] < 0.6 < sides[1]["thresholds"][chunk]
    assert agreement["decisions"]["of"] - agreement["decisions"]["same"] == 1
    assert agreement["replies"]["interval"][1] < 1
    drawn = figure.read_text(encoding="utf-8")
    assert "decision-bias 0" in drawn
    assert "decision-bias -8" in drawn


def test_what_was_recorded_is_compared_without_a_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("study.compare.chosen_checkpoint", lambda *_, **__: pytest.fail("loaded"))
    path = str(CONVERSATION)
    assert app.main(["compare", path, path, "--recorded"]) == 0
    shown = capsys.readouterr().out
    assert "decisions alike: 85 of 85 (100.0 %, 95 %: 95.7 to 100.0 %)" in shown
    assert "█" in shown
    assert "^" not in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "both sides are the same: say what is to differ"),
        (["--other-seed", "0"], "both sides are the same"),
        (["--recorded"], "--recorded compares two session files"),
        (["--other-checkpoint", "nowhere"], "nowhere"),
        (["--other-seed", "1", "--figure", "strips.doc"], "must end in .svg, .pdf, .png"),
    ],
)
def test_what_cannot_be_compared_is_said(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["compare", str(CONVERSATION), *options]) == 2
    assert sentence in capsys.readouterr().err
