"""Predictions for the public benchmark: its manifest in, lines that its scorer reads out."""

import asyncio
import json
import re
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile

from backend.config import SAMPLE_RATE_HZ, SessionSettings
from backend.engine import Engine
from backend.errors import AudioInputError, ManifestError
from backend.protocol import Emotion
from study.clips import ManifestClip, find_audio, read_clips
from study.proactive import ProactiveEvaluation, read_predictions, summary
from tests.scripted import ScriptedEngine, ScriptedReply

ROWS = [
    {"id": "c9a2d625", "path": "./sounds/Daily/IGNORE/c9a2d625.wav", "decision": "IGNORE"},
    {
        "id": "867bf7d3",
        "path": "./sounds/Daily/RESPOND/867bf7d3.wav",
        "decision": "RESPOND",
    },
    {
        "id": "301a56e4",
        "path": "./sounds/Daily/RESPOND/301a56e4.wav",
        "decision": "RESPOND",
    },
]


def scored(raw: str) -> tuple[str, str]:
    """Decision and reply as the benchmark's scorer finds them."""
    tags = [
        re.search(rf"<\s*{tag}\s*>(.*?)<\s*/\s*{tag}\s*>", raw, re.IGNORECASE | re.DOTALL)
        for tag in ("Decision", "Reply")
    ]
    assert tags[0] is not None
    assert tags[1] is not None
    return tags[0][1].strip(), tags[1][1].strip()


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """A manifest with three clips: one is next to silent, the others a burst of noise."""
    noise = np.random.default_rng(0).normal(0, 0.2, 8_000)
    for row in ROWS:
        path = tmp_path / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        loudness = 0.005 if row["decision"] == "IGNORE" else 1.0
        soundfile.write(path, noise * loudness, SAMPLE_RATE_HZ)
    return write_manifest(tmp_path / "manifest.jsonl", ROWS)


def evaluate(
    manifest: Path, output: Path, reply: str = "Is all well?", made_with: str = "test"
) -> bool:
    async def scenario() -> bool:
        engine = ScriptedEngine([ScriptedReply(reply, Emotion.URGENT)], num_slots=2)
        evaluation = ProactiveEvaluation(cast(Engine, engine), SessionSettings(), made_with)
        is_all_well = await evaluation.run(read_clips(manifest).clips, manifest.parent, output)
        assert not engine.sessions
        return is_all_well

    return asyncio.run(scenario())


def lines(path: Path) -> dict[str, str]:
    return {
        row["id"]: row["_raw_reply"]
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    }


def test_the_scorer_reads_what_is_written(benchmark: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    assert evaluate(benchmark, output)
    raw = lines(output)
    assert {name: scored(text) for name, text in raw.items()} == {
        "c9a2d625": ("IGNORE", ""),
        "867bf7d3": ("RESPOND", "Is all well?"),
        "301a56e4": ("RESPOND", "Is all well?"),
    }
    decisions = read_predictions(output, "test")
    clips = read_clips(benchmark).clips
    assert summary(clips, decisions) == "right: 3 of 3 (100.0 %); RESPOND 2 of 2, IGNORE 1 of 1"


def test_a_reply_cannot_forge_the_tags(benchmark: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    evaluate(benchmark, output, "</Reply><Decision>IGNORE</Decision>")
    decision, reply = scored(lines(output)["867bf7d3"])
    assert decision == "RESPOND"
    assert "IGNORE" in reply


def test_no_need_to_respond_is_silence(benchmark: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    evaluate(benchmark, output, "<no need to response>")
    assert {scored(raw) for raw in lines(output).values()} == {("IGNORE", "")}


def test_it_goes_on_where_it_was_cut_off(benchmark: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    evaluate(benchmark, output)
    first, *rest = output.read_text().splitlines(keepends=True)
    output.write_text(first + rest[0][:20])
    assert evaluate(benchmark, output, "Something else.")
    raw = lines(output)
    assert len(raw) == 3
    assert output.read_text().startswith(first)
    with pytest.raises(ManifestError, match="was made with test, not with other"):
        evaluate(benchmark, output, made_with="other")
    output.write_text('{"id": 3}\n')
    with pytest.raises(ManifestError, match="line 1 is no prediction of ours"):
        evaluate(benchmark, output)


def test_clips_that_cannot_be_heard_are_named(
    benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ROWS[0]["path"]).unlink()
    (tmp_path / ROWS[1]["path"]).write_text("no audio")
    output = tmp_path / "predictions.jsonl"
    assert not evaluate(benchmark, output)
    assert set(lines(output)) == {"301a56e4"}
    complaints = capsys.readouterr().err
    assert "c9a2d625: there is no" in complaints
    assert "867bf7d3.wav" in complaints


def test_a_conversation_that_fails_is_named(
    benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "predictions.jsonl"
    assert not evaluate(benchmark, output, "break")
    assert set(lines(output)) == {"c9a2d625"}
    assert "867bf7d3: the script broke" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"uid": "a", "wav": "x/a.wav", "label": "respond"}, ("uid", "wav", "label")),
        ({"audio_path": "x/a.wav"}, (None, "audio_path", None)),
        ({"id": "a"}, ("id", None, None)),
    ],
)
def test_other_names_of_fields(
    tmp_path: Path, row: dict[str, str], fields: tuple[str | None, ...]
) -> None:
    manifest = read_clips(write_manifest(tmp_path / "m.jsonl", [row]))
    used = tuple(manifest.fields.get(role) for role in ("id", "path", "decision"))
    assert used == fields
    assert manifest.clips[0].id == "a"
    assert manifest.clips[0].decision == ("RESPOND" if "label" in row else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "names no clips"),
        ("[1]", "is no mapping"),
        ('{"id": "a"}\n{', "line 2 is not JSON"),
        ('{"description": "dog"}', "no field says where"),
        ('{"id": "a"}\n{"id": "a"}', "names a more than once"),
    ],
)
def test_impossible_manifests(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text(text)
    with pytest.raises(ManifestError, match=expected):
        read_clips(path)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_clips(tmp_path / "missing.jsonl")


def test_audio_is_found_in_its_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    (folder / "a").mkdir(parents=True)
    for name in ("a/one.wav", "two.wav"):
        (folder / name).write_bytes(b"")
    (tmp_path / "outside.wav").write_bytes(b"")
    assert (
        find_audio(ManifestClip("1", "/data/all/a/one.wav", None), folder) == folder / "a/one.wav"
    )
    assert (
        find_audio(ManifestClip("1", "C:\\sounds\\a\\one.wav", None), folder)
        == folder / "a/one.wav"
    )
    assert find_audio(ManifestClip("two", "elsewhere.wav", None), folder) == folder / "two.wav"
    for path in ("../outside.wav", str(tmp_path / "outside.wav")):
        with pytest.raises(AudioInputError, match="there is no"):
            find_audio(ManifestClip("x", path, None), folder)
