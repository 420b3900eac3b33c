"""Distillation: Whisper's weights and features, broad speech, lessons, and the run itself."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from backend.config import CHUNK_SAMPLES, MEL_FRAMES_PER_CHUNK, NUM_MEL_BINS
from backend.errors import SettingsError
from backend.model.audio_tower import AudioTower
from backend.training import broad_speech
from backend.training.align import AlignedClip, ClipKind
from backend.training.augment import random_noise
from backend.training.broad_speech import (
    ASKED_SPEECH_OF_A_PIECE,
    DEVELOPMENT_VOICES,
    HELD_OUT_KOKORO_VOICES,
    SPEECH_OF_A_PIECE,
    TRAINING_VOICES,
    SpeechClip,
    SpeechStore,
    keep_training_speech,
    plan,
    trial_voices,
)
from backend.training.clips import is_for_development
from backend.training.data import SAMPLE_RATE
from backend.training.distil import (
    DistilConfig,
    Distiller,
    TrialSpeech,
    fit,
    listen,
    rate_factor,
    word_error,
)
from backend.training.lessons import (
    FEATURE_SAMPLES,
    LessonBatch,
    LessonMaker,
    Lessons,
    speech_of_people,
)
from backend.training.model import TrainingModel, initialise
from backend.training.sentences import SHARE_APART, WORDNET, load_sentences
from backend.training.split import Split, split_of, spoken_words
from backend.training.streams import BatchShape, Sounds
from backend.training.tokens import stream_sequence, train_vocabulary
from backend.training.voices import is_held_out_voice
from backend.training.whisper import (
    HEADS,
    TEACHER_WIDTH,
    Teacher,
    begin_with,
    bins_from_ours,
    read_weights,
)
from backend.training.word_pieces import WordPieces, best_path, train_word_pieces
from tests.small_checkpoint import TINY_SHAPE

TEXTS = ["the cat sat on the mat", "a dog sat on a log", "it's quick", "jazz vex why kept formed"]

VOCABULARY = train_vocabulary(1)
NOISE = Sounds({}, [random_noise(SAMPLE_RATE, random.Random(1))], [], [])


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return train_word_pieces(TEXTS)


def small_encoder(width: int, heads: int, positions: int = 50) -> WhisperEncoder:
    """An encoder of Whisper's build with random weights, keys without bias as in Whisper."""
    torch.manual_seed(4)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=1,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_mel_bins=80,
        max_source_positions=positions,
    )
    return WhisperEncoder(config).eval()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A WordNet of a thousand examples."""
    folder = tmp_path / "data" / WORDNET
    folder.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        lines = [
            f'0000{i} 00 a 01 word 0 000 | a gloss; "the {part} number {_name(i)} is here"\n'
            for i in range(250)
        ]
        (folder / f"data.{part}").write_text(f'  1 The "licence comes first"\n{"".join(lines)}')
    return folder.parent


def _name(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


# Word pieces


def test_pieces_write_any_word(pieces: WordPieces) -> None:
    for text in (*TEXTS, "zebras don't quiz boxy unicorns"):
        assert pieces.text_of(pieces.encode(text)) == text
    assert 0 not in pieces.encode("the blank is no piece")


def test_the_best_path_drops_blanks_and_repeats(pieces: WordPieces) -> None:
    ids = pieces.encode("the cat")
    path = [0, ids[0], ids[0], 0, *ids[1:], 0]
    logits = torch.nn.functional.one_hot(torch.tensor(path), pieces.size).float()
    assert pieces.text_of(best_path(logits)) == "the cat"
    assert best_path(torch.nn.functional.one_hot(torch.tensor([3, 0, 3]), 4).float()) == [3, 3]


# Whisper


def write_ctranslate2(path: Path, variables: dict[str, np.ndarray], version: int = 6) -> None:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    content = struct.pack("<I", version) + string("WhisperSpec")
    content += struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        content += string(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        content += struct.pack(
            "<BI", {"float32": 0, "float16": 4}[values.dtype.name], values.nbytes
        )
        content += values.tobytes()
    path.write_bytes(content + struct.pack("<I", 0))


def test_weights_in_ctranslate2s_layout_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_ctranslate2(path, {"encoder/conv1/weight": half, "bias": np.ones(2, np.float32)})
    weights = read_weights(path)
    assert weights["encoder/conv1/weight"].tolist() == half.tolist()
    assert weights["bias"].dtype == torch.float32


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_ctranslate2(path, {}, version=9)
    with pytest.raises(SettingsError, match="version 9"):
        read_weights(path)


def test_each_bin_of_whispers_is_a_mean_of_neighbours_at_its_frequency() -> None:
    bins = bins_from_ours()
    assert bins.shape == (80, NUM_MEL_BINS)
    torch.testing.assert_close(bins.sum(dim=1), torch.ones(80))
    # Mel bins are equally far apart: the centre of bin k of 80 is at (k + 1) / 81 of all.
    centres = bins @ torch.arange(1.0, NUM_MEL_BINS + 1) / (NUM_MEL_BINS + 1)
    torch.testing.assert_close(centres, torch.arange(1.0, 81.0) / 81, atol=0.01, rtol=0.0)


def test_a_tower_that_begins_with_whisper_hears_as_whisper_does() -> None:
    encoder = small_encoder(TINY_SHAPE.tower_width, TINY_SHAPE.tower_heads, positions=20)
    tower = AudioTower(TINY_SHAPE.tower_config())
    begin_with(tower, encoder)
    # Where all bins are equal, our 128 and Whisper's 80 say the same.
    level = torch.randn(1, 1, MEL_FRAMES_PER_CHUNK)
    with torch.no_grad():
        heard = tower(level.expand(-1, NUM_MEL_BINS, -1))
        whole = _last_hidden(encoder, level.expand(-1, 80, -1))
        expected = tower.encoder.proj(encoder.layer_norm(whole.unflatten(1, (-1, 2)).mean(dim=2)))
    torch.testing.assert_close(heard, expected, atol=1e-4, rtol=1e-4)


def _last_hidden(encoder: WhisperEncoder, log_mel: Tensor) -> Tensor:
    """What comes out of the last layer, before the norm."""
    norm, encoder.layer_norm = encoder.layer_norm, torch.nn.Identity()
    hidden: Tensor = encoder(log_mel).last_hidden_state
    encoder.layer_norm = norm
    return hidden


def test_the_teacher_gives_two_frames_for_each_of_our_features() -> None:
    encoder = small_encoder(TEACHER_WIDTH // 2, HEADS)
    teacher = Teacher(encoder)
    audio = torch.randn(16_000) * 0.1
    features = teacher.features(audio)
    assert features.shape == (25, TEACHER_WIDTH)
    assert teacher.features(audio[:9_599]).shape == (14, TEACHER_WIDTH)
    assert not torch.allclose(features, teacher.features(audio.flip(0)))


# Texts and voices


def test_no_sentence_is_on_two_sides(data: Path) -> None:
    splits = [load_sentences(data, split) for split in Split]
    examples = [set(sentences.examples) for sentences in splits]
    assert all(examples)
    assert len(set.union(*examples)) == sum(map(len, examples)) == 1000
    everyday = [set(sentences.everyday) for sentences in splits]
    assert len(set.union(*everyday)) == sum(map(len, everyday))
    assert all(len(part) >= 20 for part in everyday)


def test_case_and_punctuation_do_not_move_a_sentence_to_another_side() -> None:
    for text in TEXTS:
        assert split_of(text, SHARE_APART) is split_of(f"{text.upper()}!", SHARE_APART)


def test_what_is_not_said_is_left_out() -> None:
    assert spoken_words("Don’t stop: it's 'fine', well-read.") == "don't stop it's fine well read"


def test_without_wordnet_it_is_said_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"docs/training\.md"):
        load_sentences(tmp_path, Split.TRAINING)


def test_training_hears_no_voice_and_no_sentence_of_the_others(data: Path) -> None:
    sentences = load_sentences(data, Split.TRAINING)
    others = {*DEVELOPMENT_VOICES, *HELD_OUT_KOKORO_VOICES}
    assert not others & set(TRAINING_VOICES)
    for piece in range(4):
        for job, _ in plan(sentences, piece, seed=1):
            family, _, voice = job.voice.partition(":")
            if family == "english":
                assert not others & set(voice.split("*"))
            else:
                assert not is_held_out_voice(job.voice)
    assert not set(trial_voices(Split.DEVELOPMENT)) & set(trial_voices(Split.HELD_OUT))


def test_a_piece_is_planned_the_same_again_and_differs_from_others(data: Path) -> None:
    sentences = load_sentences(data, Split.TRAINING)
    assert list(plan(sentences, 3, seed=1)) == list(plan(sentences, 3, seed=1))
    assert list(plan(sentences, 3, seed=1)) != list(plan(sentences, 4, seed=1))


def speech(text: str, voice: str, num_samples: int, seed: int = 0) -> SpeechClip:
    noise = np.random.default_rng(seed).normal(0, 3000, num_samples)
    return SpeechClip(text, voice, noise.astype(np.int16))


def test_speech_is_kept_as_it_was(tmp_path: Path) -> None:
    store = SpeechStore(tmp_path / "speech")
    clips = [speech("one two", "flite:slt", 9000), speech("", "person:foreign", 12_345, 1)]
    store.write("00000", clips)
    assert store.names() == ["00000"]
    for kept, clip in zip(store.read("00000"), clips, strict=True):
        assert (kept.text, kept.voice) == (clip.text, clip.voice)
        np.testing.assert_array_equal(kept.audio, clip.audio)


def test_pieces_that_are_there_are_not_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def read_aloud(job: object, speed: float, voices: Path) -> SpeechClip | None:
        read.append(job)
        return speech("said", "flite:slt", 8000) if len(read) % 2 else None

    monkeypatch.setattr(broad_speech, "read_aloud", read_aloud)
    store = SpeechStore(tmp_path / "speech")
    keep_training_speech(store, data, 1, seed=1)
    of_one = len(read)
    keep_training_speech(store, data, 2, seed=1)
    assert store.names() == ["00000", "00001", "asked-000", "short-000"]
    assert of_one == sum(SPEECH_OF_A_PIECE.values()) + sum(ASKED_SPEECH_OF_A_PIECE.values())
    assert len(read) > 1.5 * of_one
    assert len(store.read("00000")) == sum(SPEECH_OF_A_PIECE.values()) / 2


# Lessons


def clip_of(kind: ClipKind, name: str, *, held_out: bool = False) -> AlignedClip:
    audio = speech("", "", 16_000).audio
    return AlignedClip(name, kind, held_out, audio, (), np.zeros(100, np.uint8))


def test_what_is_held_out_or_for_development_is_not_taught() -> None:
    clips = [clip_of(ClipKind.ORDER, f"{number}.ogg") for number in range(300)]
    development = [clip for clip in clips if is_for_development(clip)]
    assert 10 < len(development) < 45
    held_out = [clip_of(ClipKind.DIGIT, "7.ogg", held_out=True)]
    taught = list(speech_of_people([*clips, *held_out], seed=1))
    assert len(taught) == 2 * (len(clips) - len(development))
    assert {spoken.voice for spoken in taught} == {"person:order"}


class PlainTeacher:
    """Marks each feature with its index."""

    def features(self, audio: Tensor) -> Tensor:
        count = audio.numel() // FEATURE_SAMPLES
        return torch.arange(float(count))[:, None].expand(-1, TEACHER_WIDTH)


def lessons_of(folder: Path, pieces: WordPieces, clips: list[SpeechClip]) -> Lessons:
    store = SpeechStore(folder)
    store.write("00000", clips)
    lessons = Lessons(store, pieces, PlainTeacher())  # type: ignore[arg-type]
    lessons.add_new(10)
    return lessons


def test_lessons_have_their_own_part_of_what_the_teacher_says(
    tmp_path: Path, pieces: WordPieces
) -> None:
    clips = [speech("the cat", "flite:slt", 7000), speech("", "person:foreign", 20_000)]
    lessons = lessons_of(tmp_path, pieces, clips)
    (known,), (unknown,) = lessons.by_voice["flite"], lessons.by_voice["person:foreign"]
    assert known.pieces == tuple(pieces.encode("the cat"))
    assert unknown.pieces is None
    for lesson, clip in ((known, clips[0]), (unknown, clips[1])):
        count = clip.audio.size // FEATURE_SAMPLES
        assert lesson.features[:, 0].tolist() == list(range(count))


def test_only_new_pieces_are_added_and_not_too_many(tmp_path: Path, pieces: WordPieces) -> None:
    lessons = lessons_of(tmp_path, pieces, [speech("a dog", "flite:slt", 7000)])
    for name in ("00001", "00002", "00003"):
        lessons.store.write(name, [speech("a log", "flite:slt", 7000)])
    lessons.add_new(2)
    assert len(lessons.by_voice["flite"]) == 3
    lessons.add_new(2)
    lessons.add_new(2)
    assert len(lessons.by_voice["flite"]) == 4


def test_a_stream_holds_speech_where_its_features_are(tmp_path: Path, pieces: WordPieces) -> None:
    clips = [speech(text, "flite:slt", 17_000 + 3000 * i, i) for i, text in enumerate(TEXTS)]
    maker = LessonMaker(lessons_of(tmp_path, pieces, clips), NOISE, seed=5)
    batch = maker.batch(BatchShape(6, 12))
    assert batch.log_mel.shape == (6, 12, NUM_MEL_BINS, MEL_FRAMES_PER_CHUNK)
    assert batch.taught.any(dim=1).all()
    assert (batch.features[~batch.taught] == 0).all()
    for row in range(6):
        transcript = batch.transcripts[row]
        assert transcript is not None
        # Every clip begins with feature 0 of its own.
        begins = int(((batch.features[row, :, 0] == 0) & batch.taught[row]).sum())
        words = pieces.text_of(transcript).split()
        assert begins >= 1
        assert all(word in " ".join(TEXTS).split() for word in words)


def test_a_stream_with_unknown_words_has_no_transcript(tmp_path: Path, pieces: WordPieces) -> None:
    lessons = lessons_of(tmp_path, pieces, [speech("", "person:foreign", 20_000)])
    batch = LessonMaker(lessons, NOISE, seed=5).batch(BatchShape(2, 12))
    assert batch.transcripts == [None, None]
    assert batch.taught.any()


# The student


def test_hearing_is_what_the_whole_model_hears_in_silence() -> None:
    model = TrainingModel(TINY_SHAPE, VOCABULARY.size, num_words=9).eval()
    log_mel = torch.randn(2, 5, NUM_MEL_BINS, MEL_FRAMES_PER_CHUNK)
    initialise(model, log_mel)
    sequence = stream_sequence(VOCABULARY, "Listen.", {}, set(), 5)
    ids, positions = torch.tensor(sequence.ids), torch.tensor(sequence.audio_positions)
    with torch.no_grad():
        whole = model(log_mel, ids.expand(2, -1), positions.expand(2, -1))
        heard = model.hear(log_mel, ids, positions)
        torch.testing.assert_close(model.word_head(heard), whole.words, atol=1e-5, rtol=1e-4)


def test_what_is_heard_does_not_depend_on_what_comes_later() -> None:
    model = TrainingModel(TINY_SHAPE, VOCABULARY.size, num_words=9).eval()
    log_mel = torch.randn(1, 6, NUM_MEL_BINS, MEL_FRAMES_PER_CHUNK)
    initialise(model, log_mel)

    def heard(num_chunks: int) -> Tensor:
        sequence = stream_sequence(VOCABULARY, None, {}, set(), num_chunks)
        ids, positions = torch.tensor(sequence.ids), torch.tensor(sequence.audio_positions)
        with torch.no_grad():
            return model.hear(log_mel[:, :num_chunks], ids, positions)

    torch.testing.assert_close(heard(6)[:, :30], heard(3), atol=1e-5, rtol=1e-4)


def distiller_in(folder: Path, pieces: WordPieces) -> Distiller:
    return Distiller(
        DistilConfig(warmup_steps=3, rate=5e-3), TINY_SHAPE, VOCABULARY, pieces, folder
    )


def begun(folder: Path, pieces: WordPieces) -> tuple[Distiller, LessonBatch]:
    """A run of which nothing is learnt yet, and something to learn."""
    clips = [speech(text, "flite:slt", 17_000 + 3000 * i, i) for i, text in enumerate(TEXTS)]
    lessons = lessons_of(folder / "speech", pieces, clips)
    batch = LessonMaker(lessons, NOISE, seed=5).batch(BatchShape(3, 12))
    distiller = distiller_in(folder, pieces)
    encoder = small_encoder(TINY_SHAPE.tower_width, TINY_SHAPE.tower_heads)
    distiller.begin(encoder, batch, *lessons.statistics())
    return distiller, batch


def test_what_the_tower_hears_arrives_at_first_as_it_is(tmp_path: Path, pieces: WordPieces) -> None:
    distiller, batch = begun(tmp_path, pieces)
    with torch.no_grad():
        features = distiller.student.model.encode(batch.log_mel)
        heard = distiller.student(batch.log_mel)
    expected = torch.nn.functional.rms_norm(features, features.shape[-1:])
    torch.testing.assert_close(heard, expected, atol=1e-5, rtol=1e-4)
    # No direction is the same in all features, and none outweighs the others by far.
    centred = features.flatten(0, 1)
    assert centred.mean(0).abs().max() < 1e-3
    variances = torch.linalg.eigvalsh(centred.T @ centred / len(centred))
    assert 0.5 < variances[-1] < 1.1


def test_a_fitted_head_comes_near_what_is_linear() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(4000, 6, generator=generator) + 3.0
    targets = inputs @ torch.randn(6, 4, generator=generator) - 5.0
    head = torch.nn.Linear(6, 4)
    fit(head, inputs, targets)
    # What keeps the weights small costs a tenth of the slopes, and nothing of the means.
    error = (head(inputs) - targets).square().mean(0)
    assert (error < 0.02 * targets.var(0)).all()
    torch.testing.assert_close(head(inputs).mean(0), targets.mean(0), atol=1e-3, rtol=1e-3)


def test_at_first_words_move_their_head_alone(tmp_path: Path, pieces: WordPieces) -> None:
    distiller, batch = begun(tmp_path, pieces)

    def moved() -> set[str]:
        distiller.student.zero_grad()
        _, words = distiller.losses(batch, None)
        words.backward()
        gradients = {
            name: parameter.grad for name, parameter in distiller.student.named_parameters()
        }
        return {name for name, grad in gradients.items() if grad is not None and grad.any()}

    assert moved() == {"model.word_head.weight", "model.word_head.bias"}
    distiller.seconds = distiller.config.features_alone_seconds
    # The head's first weights are zero: they let nothing through yet.
    torch.nn.init.normal_(distiller.student.model.word_head.weight)
    assert "model.tower.encoder.conv1.weight" in moved()


def test_learning_brings_words_nearer(tmp_path: Path, pieces: WordPieces) -> None:
    distiller, batch = begun(tmp_path, pieces)
    distiller.seconds = distiller.config.features_alone_seconds
    _, before = distiller.losses(batch, None)
    for _ in range(15):
        distiller.learn(batch, None)
    _, after = distiller.losses(batch, None)
    assert after.item() < 0.9 * before.item()


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, pieces: WordPieces) -> None:
    first, batch = begun(tmp_path, pieces)
    for _ in range(2):
        first.learn(batch, None)
    first.save()
    second = distiller_in(tmp_path, pieces)
    assert second.resume()
    assert second.step == 2
    for distiller in (first, second):
        distiller.learn(batch, None)
    for kept, resumed in zip(first.student.parameters(), second.student.parameters(), strict=True):
        torch.testing.assert_close(kept, resumed)
    for mean, resumed_mean in zip(first.average, second.average, strict=True):
        torch.testing.assert_close(mean, resumed_mean)


def test_a_run_without_a_state_begins(tmp_path: Path, pieces: WordPieces) -> None:
    assert not distiller_in(tmp_path, pieces).resume()


def test_a_run_with_other_pieces_is_refused(tmp_path: Path, pieces: WordPieces) -> None:
    distiller, _ = begun(tmp_path, pieces)
    distiller.save()
    others = distiller_in(tmp_path, train_word_pieces(["something else altogether"]))
    with pytest.raises(SettingsError, match="another model"):
        others.resume()


def test_scoring_hears_with_the_mean_and_leaves_the_weights(
    tmp_path: Path, pieces: WordPieces
) -> None:
    distiller, batch = begun(tmp_path, pieces)
    trial = TrialSpeech("trial", [speech("the cat sat", "english:x", 9000)], pieces)
    distiller.learn(batch, None)
    weights = [parameter.clone() for parameter in distiller.student.parameters()]
    first = distiller.scores([trial])
    for kept, parameter in zip(weights, distiller.student.parameters(), strict=True):
        torch.testing.assert_close(kept, parameter)
    with torch.no_grad():
        for parameter in distiller.student.parameters():
            parameter.zero_()
    assert distiller.scores([trial]) == first
    assert first["trial word error"] >= 0.0


def test_only_a_run_can_listen(tmp_path: Path, data: Path, pieces: WordPieces) -> None:
    with pytest.raises(SettingsError, match="no run"):
        listen(data, tmp_path, Split.HELD_OUT)
    pieces.tokenizer.save(str(tmp_path / "pieces.json"))
    with pytest.raises(SettingsError, match="no run"):
        listen(data, tmp_path, Split.HELD_OUT)


def test_words_that_are_wrong_missing_or_added_count() -> None:
    assert word_error([("a b c d", "a b c d")]) == 0.0
    assert word_error([("a b c d", "a x c"), ("e", "e f")]) == pytest.approx(3 / 5)
    assert word_error([("a b", "")]) == 1.0


def test_the_rate_rises_stays_and_falls_at_the_end() -> None:
    config = DistilConfig(warmup_steps=10, falling_share=0.25)
    assert rate_factor(0, 0.0, config) == pytest.approx(0.1)
    assert rate_factor(10, 0.1, config) == rate_factor(999, 0.75, config) == pytest.approx(1.0)
    assert rate_factor(999, 1.0, config) == pytest.approx(0.02)


def test_a_development_stream_leaves_room_for_the_last_words(pieces: WordPieces) -> None:
    trial = TrialSpeech("trial", [speech("the cat", "english:x", 10_000)], pieces)
    ((text, log_mel),) = trial.streams
    assert text == "the cat"
    assert log_mel.shape[1] * CHUNK_SAMPLES >= 10_000 + 2 * CHUNK_SAMPLES
