"""`python app.py listen`: real recordings through the engine, and what it says about bad ones."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import app
from backend.audio import TRAILING_SILENCE_CHUNKS, Samples
from backend.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_UNUSABLE_FILE
from backend.cli.arguments import parse
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ, VERSION
from backend.engine.model_runner import ModelRunner
from backend.model.checkpoint import Checkpoint
from tests.conftest import GOLDEN, SAMPLES

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's recording, which its small checkpoint answers."""
    path = tmp_path_factory.mktemp("recordings") / "bark.wav"
    with np.load(GOLDEN / "count_bark_01.npz") as clip:
        soundfile.write(path, clip["audio"], SAMPLE_RATE_HZ, subtype="FLOAT")
    return path


@pytest.fixture
def listen(golden_checkpoint_dir: Path, capsys: pytest.CaptureFixture[str]) -> "Listen":
    return Listen(golden_checkpoint_dir, capsys)


class Listen:
    """Runs the command in this process."""

    def __init__(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._checkpoint = checkpoint
        self._capsys = capsys
        self.errors = ""

    def __call__(self, *arguments: str | Path, exit_code: int = 0) -> str:
        """What the command prints."""
        given = ["listen", "--checkpoint", str(self._checkpoint), *map(str, arguments)]
        assert app.main(given) == exit_code
        output, self.errors = self._capsys.readouterr()
        return output

    def events(self, *arguments: str | Path, exit_code: int = 0) -> list[dict[str, Any]]:
        """The objects that the command prints with `--json`, greedily."""
        output = self("--json", "--greedy", *arguments, exit_code=exit_code)
        return [json.loads(line) for line in output.splitlines()]


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def num_chunks(path: Path) -> int:
    return -(-len(soundfile.read(path)[0]) // CHUNK_SAMPLES) + TRAILING_SILENCE_CHUNKS


def test_the_json_lines_have_exactly_their_keys(listen: Listen, bark: Path) -> None:
    events = listen.events(bark)
    keys = {
        "decision": "event file chunk seconds speak speak_probability milliseconds",
        "turn_started": "event file turn chunk seconds emotion",
        "text_delta": "event file turn delta",
        "turn_done": "event file turn text emotion chunk",
    }
    assert {event["event"] for event in events} == set(keys)
    for event in events:
        assert list(event) == keys[event["event"]].split()
        assert event["file"] == str(bark)


def test_every_chunk_is_decided_on(listen: Listen, bark: Path) -> None:
    decisions = of_kind(listen.events(bark), "decision")
    assert [decision["chunk"] for decision in decisions] == list(range(num_chunks(bark)))
    seconds = [decision["seconds"] for decision in decisions]
    np.testing.assert_allclose(seconds, 0.4 * np.arange(1, len(seconds) + 1))
    for decision in decisions:
        assert decision["speak"] == (decision["speak_probability"] > 0.5)
        assert decision["milliseconds"] > 0


def test_the_replies_are_the_reference_s(
    listen: Listen, bark: Path, golden_checkpoint: Checkpoint
) -> None:
    events = listen.events(bark)
    with np.load(GOLDEN / "count_bark_01.npz") as clip:
        chunks, tokens = clip["online_keep_chunk"], clip["online_keep_tokens"]
    first_turn = int(np.flatnonzero(tokens == golden_checkpoint.control_tokens.text_begin)[0])
    done = of_kind(events, "turn_done")
    assert done[0]["chunk"] == chunks[first_turn]
    end = first_turn + int(
        np.flatnonzero(tokens[first_turn:] == golden_checkpoint.control_tokens.text_end)[0]
    )
    reply = golden_checkpoint.tokenizer.decode(tokens[first_turn + 1 : end].tolist())
    assert done[0]["text"] == reply


def test_a_turn_s_events_agree(listen: Listen, bark: Path) -> None:
    events = listen.events(bark)
    started, done = of_kind(events, "turn_started"), of_kind(events, "turn_done")
    assert [turn["turn"] for turn in started] == list(range(len(started)))
    assert len(started) == len(done) > 0
    decisions = of_kind(events, "decision")
    for begin, end in zip(started, done, strict=True):
        deltas = [
            event["delta"]
            for event in of_kind(events, "text_delta")
            if event["turn"] == begin["turn"]
        ]
        assert "".join(deltas) == end["text"]
        assert begin["emotion"] == end["emotion"]
        assert begin["chunk"] == end["chunk"]
        assert decisions[begin["chunk"]]["speak"]
        assert decisions[begin["chunk"]]["seconds"] == begin["seconds"]


def test_each_file_is_a_session_of_its_own(listen: Listen, bark: Path) -> None:
    once = of_kind(listen.events(bark), "turn_done")
    twice = of_kind(listen.events(bark, bark), "turn_done")
    assert twice == once + once


def test_continuous_is_one_session_over_all_files(
    listen: Listen, bark: Path, tmp_path: Path
) -> None:
    second = tmp_path / "again.wav"
    second.write_bytes(bark.read_bytes())
    events = listen.events("--continuous", bark, second)
    decisions = of_kind(events, "decision")
    each = num_chunks(bark)
    assert [decision["chunk"] for decision in decisions] == list(range(2 * each))
    assert [decision["file"] for decision in decisions] == [str(bark)] * each + [str(second)] * each
    assert decisions[each]["seconds"] == 0.4
    turns = [turn["turn"] for turn in of_kind(events, "turn_done")]
    assert turns == list(range(len(turns)))


def test_a_list_of_files(
    listen: Listen, bark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "beside.wav").write_bytes(bark.read_bytes())
    (tmp_path / "here.wav").write_bytes(bark.read_bytes())
    (tmp_path / "lists" / "list.json").write_text(json.dumps(["beside.wav", "here.wav", str(bark)]))
    events = listen.events("lists/list.json")
    files = list(dict.fromkeys(event["file"] for event in events))
    assert files == ["beside.wav", "here.wav", str(bark)]


def test_bad_files_are_named_and_the_others_go_on(
    listen: Listen, bark: Path, tmp_path: Path
) -> None:
    silent, text = tmp_path / "silent.wav", tmp_path / "text.mp3"
    soundfile.write(silent, np.zeros(9_000), SAMPLE_RATE_HZ)
    text.write_text("no audio")
    list_of_numbers, no_json = tmp_path / "numbers.json", tmp_path / "broken.json"
    list_of_numbers.write_text("[1, 2]")
    no_json.write_text("[")
    given = [tmp_path / "missing.ogg", silent, text, list_of_numbers, no_json, bark]
    events = listen.events(*given, exit_code=EXIT_UNUSABLE_FILE)
    assert {event["file"] for event in events} == {str(bark)}
    lines = listen.errors.splitlines()
    assert [str(path) in line for path, line in zip(given, lines, strict=False)] == [True] * 5
    assert len(lines) == 5


def test_impossible_names_are_a_line_each(listen: Listen, bark: Path, tmp_path: Path) -> None:
    names, nested = tmp_path / "names.json", tmp_path / "nested.json"
    names.write_text(json.dumps(["zero\0byte.wav", "\ud800.wav", "long" * 100, "", str(bark)]))
    nested.write_text("[" * 100_000)
    events = listen.events(names, nested, exit_code=EXIT_UNUSABLE_FILE)
    assert {event["file"] for event in events} == {str(bark)}
    lines = listen.errors.splitlines()
    expected = ["embedded null byte", r"\ud800", "too long", "Is a directory", "is not JSON"]
    assert [part in line for part, line in zip(expected, lines, strict=True)] == [True] * 5


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_a_name_that_is_not_utf_8_is_escaped(listen: Listen, bark: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin-1-\udce9.wav"
    path.write_bytes(bark.read_bytes())
    assert listen(path).splitlines()[0] == str(path).replace("\udce9", r"\udce9")
    assert {event["file"] for event in listen.events(path)} == {str(path)}
    listen(tmp_path / "missing-\udce9.wav", exit_code=EXIT_UNUSABLE_FILE)
    assert r"missing-\udce9.wav cannot be read" in listen.errors


@pytest.mark.parametrize("mode", [[], ["--continuous"]])
def test_after_a_failed_conversation_the_other_files_go_on(
    listen: Listen, bark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: list[str]
) -> None:
    encode, num_calls = ModelRunner.encode, itertools.count()

    def fail_once(self: ModelRunner, slots: list[int], chunks: list[Samples]) -> torch.Tensor:
        if next(num_calls) == 3:
            raise RuntimeError("out of memory")
        return encode(self, slots, chunks)

    monkeypatch.setattr(ModelRunner, "encode", fail_once)
    # Longer than what is fed ahead, so that a continuous conversation fails before the next file.
    long = tmp_path / "long.wav"
    soundfile.write(long, np.tile(soundfile.read(bark)[0], 20), SAMPLE_RATE_HZ)
    events = listen.events(*mode, long, bark, exit_code=EXIT_UNUSABLE_FILE)
    decisions = of_kind(events, "decision")
    heard = [decision["file"] for decision in decisions]
    assert heard == [str(long)] * 3 + [str(bark)] * num_chunks(bark)
    assert decisions[3]["chunk"] == 0
    assert listen.errors.startswith(f"{long}: the model failed")


def test_in_a_continuous_session_a_bad_file_is_passed_over(
    listen: Listen, bark: Path, tmp_path: Path
) -> None:
    arguments: list[str | Path] = ["--continuous", bark, tmp_path / "missing.ogg", bark]
    decisions = of_kind(listen.events(*arguments, exit_code=1), "decision")
    assert len(decisions) == 2 * num_chunks(bark)


def test_the_embedded_checkpoint_answers_the_sample_recordings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    files = [str(SAMPLES / sample["file"]) for sample in samples]
    assert app.main(["listen", "--json", "--greedy", *files]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = of_kind(events, "turn_done")
    for sample, file in zip(samples, files, strict=True):
        said = [(turn["text"], turn["emotion"]) for turn in done if turn["file"] == file]
        expected = [(sample["reply"], sample["emotion"])] if sample["reply"] else []
        assert said == expected, file


def test_for_people_there_are_times_emotions_and_text(listen: Listen, bark: Path) -> None:
    done = of_kind(listen.events(bark), "turn_done")
    lines = listen("--greedy", bark).splitlines()
    assert lines[0] == str(bark)
    assert lines[1].endswith(done[0]["text"].rstrip())
    assert " s  " in lines[1]


def test_draws_repeat_with_their_seed(listen: Listen, bark: Path) -> None:
    def texts(seed: int) -> list[str]:
        output = listen("--json", "--temperature", "2", "--top-k", "50", "--seed", str(seed), bark)
        events = [json.loads(line) for line in output.splitlines()]
        return [event["text"] for event in of_kind(events, "turn_done")]

    assert texts(1) == texts(1)
    assert len({str(texts(seed)) for seed in range(4)}) > 1


def test_realtime_takes_as_long_as_the_audio(listen: Listen, tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 3_000), SAMPLE_RATE_HZ)
    began = time.monotonic()
    listen("--realtime", path)
    assert time.monotonic() - began >= 0.4 * num_chunks(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "9"], "temperature must be between 0 and 2, not 9.0"),
        (["--top-k", "0"], "top-k must be between 1 and 1000, not 0"),
        (["--seed", "-1"], "seed must be between"),
        (["--device", "abacus"], "there is no device 'abacus'"),
        (["--dtype", "int4"], "dtype must be one of"),
        (["--checkpoint", "./nowhere"], "there is no checkpoint folder ./nowhere"),
        (["--system-prompt", "word " * 5_000], "the system prompt is too long"),
    ],
)
def test_bad_settings_are_one_clear_line(
    listen: Listen, bark: Path, arguments: list[str], message: str
) -> None:
    assert listen(bark, *arguments, exit_code=EXIT_ERROR) == ""
    [line] = listen.errors.splitlines()
    assert message in line


def test_a_context_that_is_too_small_is_one_clear_line(
    golden_checkpoint_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(golden_checkpoint_dir), "--max-positions", "20"]
    assert app.main(given) == EXIT_ERROR
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert "positions, not 20" in errors


def test_a_broken_checkpoint_is_one_clear_line(
    bark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["listen", "--checkpoint", str(tmp_path), str(bark)]) == EXIT_ERROR
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == f"app.py: {tmp_path / 'model_config.yaml'} is missing\n"


@pytest.mark.parametrize("command", ["listen", "replay", "recordings"])
def test_a_reader_that_leaves_is_no_error(
    command: str, golden_checkpoint_dir: Path, bark: Path, tmp_path: Path
) -> None:
    arguments = {
        "listen": ["--json", str(bark), "--checkpoint", str(golden_checkpoint_dir)],
        "replay": ["--json", "assets/gallery/conversation.aisession"],
        "recordings": ["--recordings", str(tmp_path)],
    }
    with subprocess.Popen(
        [sys.executable, "app.py", command, *arguments[command]],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_folder_that_cannot_be_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder = "long" * 100
    assert app.main(["recordings", "--recordings", folder]) == 2
    assert capsys.readouterr().err == f"app.py: {folder}: File name too long\n"
    assert app.main(["recordings", "--recordings", "README.md"]) == 2
    assert capsys.readouterr().err == "app.py: README.md: Not a directory\n"


def test_ctrl_c_ends_quietly(listen: Listen, bark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backend.cli.listen.load_checkpoint", interrupt)
    assert listen(bark, exit_code=EXIT_INTERRUPTED) == ""
    assert listen.errors == ""


def test_without_a_command_the_page_is_served() -> None:
    parsed = parse(["--port", "8000", "--checkpoint", "somewhere"])
    assert (parsed.command, parsed.port, parsed.checkpoint) == ("serve", 8000, "somewhere")
    assert parse([]).port == 7860


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_a_port_that_no_browser_finds_is_refused(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([f"--port={port}"])
    assert ended.value.code == EXIT_ERROR
    assert "argument --port: must be " in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["listen", "a.wav"], ["answer", "a.wav"]])
def test_a_checkpoint_without_a_name_is_refused(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*command, "--checkpoint="])
    assert ended.value.code == EXIT_ERROR
    assert "argument --checkpoint: must name a model, and is empty" in capsys.readouterr().err


@pytest.mark.parametrize("bias", ["99", "-8.5", "nan", "inf", "much"])
@pytest.mark.parametrize("command", [["talk"], ["replay", "a.aisession", "--from-chunk", "1"]])
def test_bias_out_of_range_is_refused(
    command: list[str], bias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*command, f"--decision-bias={bias}"])
    assert ended.value.code == EXIT_ERROR
    assert "argument --decision-bias: must be " in capsys.readouterr().err


def test_bias_within_range_is_taken() -> None:
    assert parse(["talk", "--decision-bias", "-8"]).decision_bias == -8
    assert parse(["talk"]).decision_bias == 0


def test_version_and_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as told:
        app.main(["--version"])
    assert told.value.code == 0
    assert VERSION in capsys.readouterr().out
    with pytest.raises(SystemExit):
        app.main(["bogus"])
    assert "there is no command 'bogus': there are serve, cluster, talk," in capsys.readouterr().err
