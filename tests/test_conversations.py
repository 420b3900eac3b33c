"""Somebody's own recordings: the JSONL, streams made of them, and training on them."""

import itertools
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from backend.errors import SettingsError
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED, EMBEDDED_FOLDER
from backend.training.__main__ import main
from backend.training.beginning import from_checkpoint, require_writable
from backend.training.clips import PEOPLE, own_turns
from backend.training.conversations import (
    SILENCE,
    ConversationTurn,
    TrainingConversation,
    described,
    read_conversations,
    write_conversations,
)
from backend.training.data import Kind, LabelledRecording
from backend.training.domain import SpokenReply, StatedAbility
from backend.training.export import export
from backend.training.listening import HeldOutConversations
from backend.training.model import ModelShape
from backend.training.streams import BatchShape, Corpus, Sounds, StreamMaker, made_sounds
from backend.training.tokens import train_vocabulary
from backend.training.train import Sources, TrainingConfig, load_trainer, train
from backend.training.utterances import BUILT_IN_RECIPES, OwnTurn, mixed
from backend.training.word_pieces import train_word_pieces
from tests.small_checkpoint import write_small_checkpoint

RATE = 16_000
TINY = ModelShape(
    tower_width=16,
    tower_layers=1,
    tower_heads=2,
    decoder_width=16,
    decoder_layers=2,
    decoder_heads=2,
    decoder_ffn=24,
    word_layer=2,
)
MOMENT = TrainingConfig(
    hours=0.3 / 3600,
    workers=0,
    tower_shapes=(BatchShape(1, 12),),
    short_shapes=(BatchShape(1, 12),),
    long_shapes=(BatchShape(1, 14),),
)
HELLO = {"audio_path": "tone.wav", "assistant": "Hello, Zoë!", "emotion": "happy"}
QUIET = {"audio_path": "noise.wav", "assistant": SILENCE, "emotion": "normal"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings of a second: a tone and noise."""
    time = np.arange(RATE) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * time), RATE)
    noise = np.random.default_rng(1).standard_normal(RATE)
    soundfile.write(tmp_path / "noise.wav", 0.1 * noise, RATE)
    return tmp_path


@pytest.fixture(scope="module")
def sounds() -> Sounds:
    return made_sounds(1)


def lines(path: Path, *conversations: object) -> Path:
    path.write_text("\n".join(json.dumps(conversation) for conversation in conversations))
    return path


def written(folder: Path, *turns: object) -> Path:
    return lines(folder / "own.jsonl", {"conversation": turns})


def test_conversations_are_read(folder: Path) -> None:
    turns = [HELLO, {**QUIET, "transcript": "never mind"}]
    (conversation,) = read_conversations(written(folder, *turns))
    assert conversation.turns == (
        ConversationTurn(folder / "tone.wav", SpokenReply("happy", "Hello, Zoë!")),
        ConversationTurn(folder / "noise.wav", None, "never mind"),
    )


def test_silence_needs_no_emotion_and_a_path_may_be_absolute(folder: Path) -> None:
    turn = {"audio_path": str(folder / "noise.wav"), "assistant": SILENCE}
    (conversation,) = read_conversations(written(folder, turn))
    assert conversation.turns == (ConversationTurn(folder / "noise.wav", None),)


def test_what_is_written_is_read_back(folder: Path) -> None:
    conversations = [
        TrainingConversation(
            (ConversationTurn(folder / "tone.wav", SpokenReply("sad", "Oh."), "oh dear"),)
        ),
        TrainingConversation((ConversationTurn(folder / "noise.wav", None),) * 2),
    ]
    for path in (folder / "own.jsonl", folder / "below" / "own.jsonl"):
        write_conversations(conversations, path)
        assert read_conversations(path) == conversations
    assert '"audio_path": "tone.wav"' in (folder / "own.jsonl").read_text()


@pytest.mark.parametrize(
    ("turn", "fault"),
    [
        ({**HELLO, "audio_path": "gone.wav"}, "there is no recording"),
        ({**HELLO, "audio_path": 7}, "`audio_path` is text"),
        ({**HELLO, "emotion": "bored"}, "`emotion` is one of happy, sad.*not 'bored'"),
        ({"audio_path": "tone.wav", "assistant": "Hi."}, "lacks `emotion`"),
        ({"audio_path": "tone.wav"}, "lacks `assistant`"),
        ({"assistant": "Hi."}, "lacks `audio_path`"),
        ({**HELLO, "assistant": " "}, "`assistant` is empty; silence is written <no need"),
        ({**HELLO, "transcript": 3}, "`transcript` is text"),
        ({**HELLO, "audio_path": "own.jsonl"}, "holds no sound of a known format"),
        ({**HELLO, "audio_path": "long.wav"}, "longer than 30 s"),
        ("Hello.", "a turn is an object"),
    ],
)
def test_a_fault_is_named_with_its_file_and_line(folder: Path, turn: object, fault: str) -> None:
    soundfile.write(folder / "long.wav", np.full(31 * 8000, 0.1), 8000)
    path = lines(folder / "own.jsonl", {"conversation": [HELLO]}, {"conversation": [QUIET, turn]})
    with pytest.raises(SettingsError, match=rf"own\.jsonl, line 2: .*{fault}"):
        read_conversations(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "line 1: this is not JSON"),
        ("[]", "line 1: a line is an object"),
        ('{"conversation": []}', "line 1: a line is an object"),
        ("\n\n", "holds no conversation"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match=fault):
        read_conversations(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.jsonl cannot be read: No such file"):
        read_conversations(tmp_path / "none.jsonl")


def test_our_own_recordings_are_described(tmp_path: Path) -> None:
    digit = described(LabelledRecording(Kind.DIGIT, "digits/7.ogg", "seven", speaker="x"), tmp_path)
    assert digit.turns == (
        ConversationTurn(
            tmp_path / "digits/7.ogg", SpokenReply("normal", "You said seven."), "seven"
        ),
    )
    rain = described(LabelledRecording(Kind.SOUND, "sounds/1.ogg", "rain", fold=1), tmp_path)
    assert rain.turns == (ConversationTurn(tmp_path / "sounds/1.ogg", None),)


def test_the_command_describes_our_own_recordings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        {"file": "tone.wav", "digit": 7, "speaker": "jackson"},
        {"file": "tone.wav", "digit": 3, "speaker": "george"},
    ]
    for name in ("coffee_orders", "digits", "wake_words", "sounds"):
        chosen = entries if name == "digits" else []
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(entry) for entry in chosen))
    output = folder / "described"
    arguments = ["training", "describe", "--data", str(folder), "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    for name, word in (("training", "seven"), ("held-out", "three")):
        reply = SpokenReply("normal", f"You said {word}.")
        turn = ConversationTurn((folder / "tone.wav").resolve(), reply, word)
        assert read_conversations(output / f"{name}.jsonl") == [TrainingConversation((turn,))]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ([], "nothing to learn from"),
        (["--conversations", "own.jsonl"], "say with --output"),
        (["--conversations", "none.jsonl", "--output", "out"], "none.jsonl cannot be read"),
        (["--conversations", "own.jsonl", "--output", "a_file"], "a_file/run: Not a directory"),
        (["--data", ".", "--hours", "0"], "must be more than 0"),
    ],
)
def test_the_command_says_what_it_lacks(
    options: list[str],
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    monkeypatch.setattr("sys.argv", ["training", "train", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize("clips_are_made", [False, True])
def test_missing_prompts_are_told_of_before_clips_are_made(
    clips_are_made: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if clips_are_made:
        (tmp_path / PEOPLE).write_bytes(pickle.dumps([]))
    options = ["--data", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["training", "train", *options])
    with pytest.raises(SystemExit):  # there are no recordings
        main()
    assert ("prompts is missing" in capsys.readouterr().out) != clips_are_made


def test_a_transcript_gives_words_where_it_fits() -> None:
    recording = EMBEDDED_FOLDER.parent / "samples" / "digit_seven.ogg"
    turns = [ConversationTurn(recording, None, text) for text in ("Seven!", "xqzt", None)]
    ((fits, unknown, untold),), num_unaligned = own_turns([TrainingConversation(tuple(turns))], 1)
    assert num_unaligned == 1
    assert fits.clip is not None
    assert fits.clip.text == "seven"
    assert unknown.clip is None
    assert untold.spoken().words is None


def own_turn(seconds: float, text: str | None) -> OwnTurn:
    audio = np.random.default_rng(2).integers(-9000, 9000, int(seconds * RATE), np.int16)
    return OwnTurn(audio, int(100 * seconds), SpokenReply("normal", text) if text else None, None)


def test_a_conversation_is_placed_in_order_and_answered_after_each_turn(sounds: Sounds) -> None:
    turns = [own_turn(1.0, "One."), own_turn(0.8, None), own_turn(1.2, "Two.")]
    corpus = Corpus([], sounds, [turns])
    maker = StreamMaker(corpus, train_vocabulary(1), train_word_pieces(["yes no"]), seed=4)
    maker.utterances.recipes = {"own": 1.0}
    followed = 0
    for _ in range(20):
        stream = maker.stream(50)
        texts = [reply.text for _, reply in sorted(stream.replies.items())]
        assert set(texts) <= {"One.", "Two."}
        followed += sum(pair == ("One.", "Two.") for pair in itertools.pairwise(texts))
    assert followed > 10


def test_a_stream_has_room_for_the_longest_turn(sounds: Sounds) -> None:
    corpus = Corpus([], sounds, [[own_turn(30.0, "Yes.")]])
    config = TrainingConfig().with_room(corpus.num_chunks)
    longest = max(shape.num_chunks for shape in config.long_shapes)
    maker = StreamMaker(corpus, train_vocabulary(1), train_word_pieces(["yes no"]), seed=4)
    maker.utterances.recipes = {"own": 1.0}
    assert all(maker.stream(longest).replies for _ in range(5))


def test_own_and_built_in_recordings_are_mixed_half_and_half() -> None:
    recipes = mixed(BUILT_IN_RECIPES, {"own": 1.0})
    assert recipes["own"] == 0.5
    assert sum(recipes.values()) == pytest.approx(1.0)


def test_training_on_own_recordings_and_going_on_from_the_result(folder: Path) -> None:
    own = written(folder, HELLO, QUIET)
    scratch, output = Sources(conversations=own, held_out=own), folder / "model"
    trainer = train(scratch, folder, output / "run", MOMENT, TINY)
    assert trainer.stage == "joint"
    assert trainer.average is not None
    progress = (output / "run" / "progress.jsonl").read_text().splitlines()
    assert {"held_out_replies", "held_out_silences"} <= json.loads(progress[-1]).keys()

    bark: StatedAbility = {
        "group": "sounds",
        "heard": "a dog",
        "example": None,
        "reply": "Hush!",
        "emotion": "angry",
    }
    hello: StatedAbility = {
        "group": "own recordings",
        "heard": "tone",
        "example": None,
        "reply": "Hello, Zoë!",
        "emotion": "happy",
    }
    assert trainer.abilities == (hello,)
    export(trainer.averaged(), trainer.vocabulary, output, "Be brief.", [bark])
    loaded = load_checkpoint(str(output), device="cpu")
    assert loaded.system_prompt == "Be brief."
    torch.testing.assert_close(
        loaded.language_model.model.norm.weight,
        trainer.averaged().decoder.model.norm.weight.detach().bfloat16().float(),
    )

    further = replace(scratch, checkpoint=str(output))
    gentle = train(further, folder, folder / "further", MOMENT, ModelShape())
    assert gentle.model.shape == TINY
    assert gentle.system_prompt == "Be brief."
    assert gentle.abilities == (hello, bark)
    assert gentle.config.learning_rate == pytest.approx(MOMENT.learning_rate / 10)
    assert gentle.vocabulary.control == trainer.vocabulary.control
    change = gentle.model.tower.encoder.conv1.weight - loaded.audio_tower.encoder.conv1.weight
    assert change.abs().max() < 0.02

    again = load_trainer(folder / "further", MOMENT)
    assert again.seconds == gentle.seconds
    assert again.system_prompt == "Be brief."
    assert again.abilities == (hello, bark)
    for kept, saved in zip(gentle.average or [], again.average or [], strict=True):
        torch.testing.assert_close(kept, saved)


def test_held_out_conversations_are_scored_token_by_token() -> None:
    vocabulary = train_vocabulary(1)
    turns = [own_turn(25.0, "Yes."), own_turn(25.0, None), own_turn(25.0, "No.")]
    listener = HeldOutConversations([turns], vocabulary, "Hi.")
    assert len(listener.streams) == 2
    opened = [
        sequence.labels.count(vocabulary.control.text_begin) for sequence, _ in listener.streams
    ]
    assert opened == [1, 1]


def test_the_embedded_checkpoint_can_be_trained_further() -> None:
    beginning = from_checkpoint(EMBEDDED)
    assert beginning.weights is not None
    assert {name.split(".")[0] for name in beginning.weights} >= {"tower", "decoder"}
    require_writable(beginning.vocabulary, ["Grüße, 你好!"])


def test_another_build_of_model_is_refused(tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path / "small")
    with pytest.raises(SettingsError, match="as many key heads as heads"):
        from_checkpoint(str(folder))
