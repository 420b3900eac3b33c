"""Teaching a checkpoint a few takes: what a folder holds, what is learnt, and what stays."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from backend.errors import SettingsError
from backend.model.checkpoint import load_checkpoint
from backend.serving import teaching as served
from backend.training import conversations, rehearsal, takes, teach
from backend.training.beginning import from_checkpoint
from backend.training.domain import SpokenReply
from backend.training.export import export
from backend.training.model import TrainingModel, initialise
from backend.training.streams import Corpus, Sounds
from backend.training.takes import Take, find_takes, read_takes, split_takes
from backend.training.teaching import TakesTeacher, TeachingConfig
from backend.training.tokens import train_vocabulary
from tests.small_checkpoint import TINY_SHAPE

PING = SpokenReply("surprise", "You said seven.")
QUICK = TeachingConfig(
    taught_batches=2,
    rehearsed_batches=2,
    streams_of_a_batch=2,
    steps=40,
    warmup_steps=2,
    learning_rate=0.01,
    save_every_steps=20,
)


def tone(number: int = 0, hertz: float = 900.0) -> np.ndarray:
    """A take: a tone of half a second in a little noise."""
    noise = np.random.default_rng(number).normal(0, 0.001, 16_000).astype(np.float32)
    noise[4_000:12_000] += 0.3 * np.sin(np.arange(8_000) * 2 * np.pi * hertz / 16_000)
    return noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five takes, without a word about them."""
    path = tmp_path / "takes"
    path.mkdir()
    for number in range(5):
        soundfile.write(path / f"ping-{number}.wav", tone(number), 16_000)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that hears and says nothing in particular, in the released layout."""
    torch.manual_seed(3)
    vocabulary = train_vocabulary(1)
    model = TrainingModel(TINY_SHAPE, vocabulary.size, num_words=7)
    initialise(model, torch.randn(2, 3, 128, 40))
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    export(model, vocabulary, path)
    return path


def test_a_folder_of_audio_is_one_thing_with_one_reply(folder: Path) -> None:
    found = read_takes(find_takes(folder, PING))
    assert [take.name for take in found] == [f"ping-{number}.wav" for number in range(5)]
    assert {take.reply for take in found} == {PING}
    learnt, held_out = split_takes(found)
    assert (len(learnt), len(held_out)) == (4, 1)


def test_a_folder_says_in_jsonl_what_is_right(folder: Path) -> None:
    line = {"audio_path": "ping-0.wav", "assistant": "Ping.", "emotion": "happy"}
    (folder / "takes.jsonl").write_text(json.dumps({"conversation": [line]}) + "\n")
    (take,) = read_takes(find_takes(folder))
    assert take.reply == SpokenReply("happy", "Ping.")


def _silent(folder: Path) -> None:
    soundfile.write(folder / "ping-3.wav", np.zeros(16_000), 16_000)


def _long(folder: Path) -> None:
    soundfile.write(folder / "ping-3.wav", np.tile(tone(), 12), 16_000)


def _broken(folder: Path) -> None:
    (folder / "ping-3.wav").write_bytes(b"no sound")


def _few(folder: Path) -> None:
    for number in range(2, 5):
        (folder / f"ping-{number}.wav").unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _missing(folder: Path) -> None:
    line = {"audio_path": "gone.wav", "assistant": "Ping.", "emotion": "happy"}
    (folder / "takes.jsonl").write_text(json.dumps({"conversation": [line]}) + "\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_silent, "ping-3.wav holds only silence"),
        (_long, "ping-3.wav lasts longer than the 8 s"),
        (_broken, "ping-3.wav .*record it again"),
        (_few, "2 of the 3 takes"),
        (_empty, "holds no takes"),
        (_missing, "line 1: there is no recording"),
    ],
)
def test_takes_that_cannot_be_used_get_a_sentence(
    folder: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(folder)
    with pytest.raises(SettingsError, match=sentence):
        split_takes(read_takes(find_takes(folder, PING)))


def test_without_a_reply_there_is_nothing_to_learn(folder: Path) -> None:
    with pytest.raises(SettingsError, match="--reply"):
        find_takes(folder)
    with pytest.raises(SettingsError, match="nothing to answer"):
        split_takes([Take("a", tone(), None)] * 4)
    with pytest.raises(SettingsError, match="no folder"):
        find_takes(folder / "gone")


@pytest.fixture
def few_skills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less to rehearse and to look at than there is."""
    noise = np.random.default_rng(4).normal(0, 1, 64_000).astype(np.float32)
    monkeypatch.setattr(rehearsal, "made_sounds", lambda seed: Sounds({}, [noise], [], []))
    monkeypatch.setattr(rehearsal, "lines_to_read", lambda _: ["seven", "the cat sat"])
    monkeypatch.setattr(teach, "known_clips", lambda: [Take("low", tone(9, 300.0), None)])


@pytest.mark.usefixtures("few_skills")
def test_takes_are_learnt_and_a_run_goes_on_where_it_was_stopped(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "taught"
    found = find_takes(folder, PING)
    shares: list[float] = []

    def stop_in_between(share: float) -> None:
        shares.append(share)
        if (output / "run" / "state.pt").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach.teach(str(tiny), found, output, stop_in_between, config=QUICK)
    stopped_at = shares[-1]
    shares.clear()
    result = teach.teach(str(tiny), found, output, shares.append, config=QUICK)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    steps = [after - before for before, after in pairwise(shares)]
    assert max(steps) > 0.2, "the steps that were taken are not taken again"
    assert stopped_at in shares
    (take,), (known,) = result.takes, result.known
    assert (take.name, known.name) == ("ping-3.wav", "low")
    first, *later = take.after.probabilities
    assert first < 0.2 * max(later), "it is not answered before it was heard"
    assert take.before.probabilities[0] > 0.2 * max(take.before.probabilities)
    assert not (output / "run").exists()
    told = json.loads((output / "comparison.json").read_text())
    assert told["counts"]["takes"]["clips"] == 1
    abilities = load_checkpoint(str(output), device="cpu").abilities
    assert abilities[0].reply == PING.text
    assert len(abilities) > 1, "what it knew it says still"


@pytest.mark.usefixtures("few_skills")
def test_the_lower_layers_stay_as_they_are(tiny: Path, tmp_path: Path) -> None:
    begun = from_checkpoint(str(tiny))
    spoken, sounds = rehearsal.sample_sounds()
    rehearsed = Corpus([], sounds, spoken, begun.system_prompt, shares={"own": 1.0})
    config = replace(QUICK, taught_batches=1, rehearsed_batches=1, steps=2, learnt_layers=1)
    teacher = TakesTeacher(begun, [Take("a", tone(), PING)], rehearsed, tmp_path, config)
    teacher.run(lambda _: None)
    assert begun.weights is not None
    moved = {
        name
        for name, weight in teacher.model.named_parameters()
        if name in begun.weights and not torch.equal(weight, begun.weights[name])
    }
    assert moved
    top = ("decoder.model.layers.2.", "decoder.model.norm.")
    assert all(name.startswith(top) for name in moved)


@pytest.mark.usefixtures("few_skills")
def test_what_is_rehearsed_ships_with_the_project() -> None:
    (read,) = rehearsal.read_aloud(["zero"], random.Random(1), ["f3"])
    assert read.text == "zero"
    assert read.audio.dtype == np.int16
    assert read.audio.size > 1600
    spoken, sounds = rehearsal.sample_sounds()
    assert {turn.reply.text for (turn,) in spoken if turn.reply} >= {"You said seven."}
    assert {"dog bark", "rain"} <= set(sounds.events)


@pytest.mark.usefixtures("few_skills")
def test_a_job_tells_in_json_what_is_wrong(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teach, "give_way", lambda: None)
    assert teach.main(["embedded", str(folder), str(tmp_path / "out")]) == 1
    assert "--reply" in json.loads(capsys.readouterr().out)["error"]


def test_a_server_and_its_job_mean_the_same() -> None:
    # A server does not import what trains.
    assert teach.__name__ == served.JOB
    assert served.SILENCE == conversations.SILENCE
    assert (served.COMPARISON, served.SILENT_PEAK) == (teach.COMPARISON, takes.SILENT_PEAK)
    assert served.MAX_TAKE_SECONDS == takes.MAX_TAKE_SECONDS


def test_takes_that_are_all_different_are_said_to_be() -> None:
    strip = teach.DecisionStrip((0.1,), ())
    clip = teach.ClipCompared("a", PING, (0.1,), strip, strip)
    assert "all different" in str(teach.TeachingResult((clip,), ()))
