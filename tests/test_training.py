"""Training: labels, split, streams, features and export of the embedded checkpoint."""

import random
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import soundfile
import torch

from backend.config import CHUNK_SAMPLES, CHUNK_SECONDS, FEATURES_PER_CHUNK
from backend.features import LogMel, StreamingLogMel
from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED_FOLDER
from backend.training import beginning
from backend.training.align import PHONES, AlignedClip, Aligner, ClipKind, Word
from backend.training.augment import rms
from backend.training.beginning import embedded_anew
from backend.training.broad_speech import SpeechClip, plan_short
from backend.training.clips import human_utterances
from backend.training.data import SAMPLE_RATE, Kind, LabelledRecording, is_held_out, read_manifests
from backend.training.domain import (
    DIGIT_WORDS,
    SLOT_VALUES,
    SOUND_REPLIES,
    Slot,
    SpokenReply,
    digit_reply,
    intents,
    order_grammar,
    order_reply,
    parse_order,
    phrase_reply,
    random_order,
    random_wording,
    spans_of,
    spoken_text,
)
from backend.training.evaluate import wilson_interval
from backend.training.everyday_sounds import (
    UNANSWERED_SOUNDS,
    everyday_sounds,
    gather,
    load_everyday_sounds,
)
from backend.training.export import export
from backend.training.features import stream_log_mel
from backend.training.listening import edit_distance
from backend.training.model import TrainingModel, initialise
from backend.training.split import Split
from backend.training.streams import Stream, StreamBatch, Stretch, place, reply_chunk
from backend.training.synthetic_sounds import alarm, music
from backend.training.tokens import IGNORED, reply_tokens, stream_sequence, train_vocabulary
from backend.training.train import words_loss
from backend.training.utterances import (
    FRAME_SAMPLES,
    SOUND_CLASSES,
    SOUND_FRAMES,
    Spoken,
    Utterances,
    spoken_differently,
    tapped,
    tightly,
)
from backend.training.voices import _neural, is_held_out_voice
from backend.training.word_pieces import train_word_pieces, word_pieces_of
from tests.small_checkpoint import TINY_SHAPE

MAX_CHECKPOINT_BYTES = 25_000_000


def test_a_digit_is_repeated() -> None:
    assert digit_reply(7).text == "You said seven."
    assert digit_reply(0).emotion == "normal"


def test_an_order_is_repeated_in_a_fixed_order() -> None:
    order = parse_order(
        {
            "sugarAmount": "brown sugar",
            "milkAmount": "a bit of soy milk",
            "coffeeDrink": "latte",
            "roast": "dark roast",
            "size": "large",
            "numberOfShots": "double shot",
        }
    )
    reply = order_reply(order)
    assert reply.emotion == "happy"
    assert reply.text == (
        "Coming up: large dark roast latte, double shot, a bit of soy milk, brown sugar."
    )


def test_an_order_needs_a_drink() -> None:
    with pytest.raises(ValueError, match="coffeeDrink"):
        order_reply({Slot.SIZE: "large"})


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(ValueError, match="tea"):
        parse_order({"coffeeDrink": "tea"})


def test_every_wording_is_read_back_as_its_order() -> None:
    rng = random.Random(5)
    for _ in range(300):
        order = random_order(rng)
        text = spoken_text(random_wording(order, rng))
        read = {span.slot: span.text for span in spans_of(text) if span.slot is not None}
        assert read == order, text


def test_the_grammar_names_every_slot() -> None:
    order = {slot: values[-1] for slot, values in SLOT_VALUES.items()}
    grammar = order_grammar(order)
    assert all(value in grammar for value in order.values())


def test_the_split_is_by_speaker_and_fold() -> None:
    def digit(speaker: str) -> LabelledRecording:
        return LabelledRecording(Kind.DIGIT, f"digits/7_{speaker}_3.ogg", "seven", speaker=speaker)

    speakers = ("george", "jackson", "nicolas", "yweweler")
    assert [s for s in speakers if is_held_out(digit(s))] == ["george"]
    folds = [
        fold
        for fold in range(1, 5)
        if is_held_out(LabelledRecording(Kind.SOUND, "x", "rain", fold=fold))
    ]
    assert folds == [4]


def test_the_split_of_orders_depends_on_the_name_alone() -> None:
    names = [f"coffee_orders/{number}.ogg" for number in range(2000)]
    held_out = {name for name in names if is_held_out(LabelledRecording(Kind.ORDER, name, ""))}
    assert 0.12 < len(held_out) / len(names) < 0.18
    elsewhere = {
        name for name in names if is_held_out(LabelledRecording(Kind.ORDER, f"/data/{name}", ""))
    }
    assert elsewhere == held_out


def test_training_features_are_the_live_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    audio = torch.randn(3, 4 * CHUNK_SAMPLES, generator=generator) * 0.1
    audio[0, : 2 * CHUNK_SAMPLES] = 0.0
    audio[1] *= 0.01
    live = StreamingLogMel(3)
    slots = torch.arange(3)
    chunks = [live(chunk, slots) for chunk in audio.split(CHUNK_SAMPLES, dim=1)]
    trained = stream_log_mel(LogMel(), audio)
    torch.testing.assert_close(trained, torch.stack(chunks, dim=1))


def spoken(num_frames: int, last_word_ends: int, digit: int = 7) -> Spoken:
    phones = np.ones(num_frames, np.uint8)
    words = (Word("seven", 0, last_word_ends),)
    audio = np.ones(num_frames * FRAME_SAMPLES, np.float32)
    return Spoken(audio, words, phones, digit_reply(digit))


@pytest.mark.parametrize("end_frame", [1, 9, 10, 11, 49, 50, 51, 100, 101])
def test_a_reply_begins_at_least_300_ms_after_the_last_word(end_frame: int) -> None:
    end_seconds = end_frame / 100
    chunk = reply_chunk(end_frame)
    assert (chunk + 1) * CHUNK_SECONDS >= end_seconds + 0.3 - 1e-9
    assert chunk * CHUNK_SECONDS < end_seconds + 0.3


def test_a_stream_carries_the_labels_of_what_is_placed_in_it() -> None:
    stream = Stream.silent(6)
    place(stream, spoken(50, 40), 30)
    assert stream.replies == {2: digit_reply(7)}
    assert stream.phones[8] == 1
    assert stream.phones[6] == 0
    assert stream.said == [(7, 20, "seven")]


def test_words_are_learnt_between_what_is_not_known() -> None:
    pieces = train_word_pieces(["seven eight"])
    stream = Stream.silent(10)
    place(stream, spoken(40, 40), 20)
    place(stream, replace(spoken(40, 40), words=None, phones=None, reply=None), 120)
    place(stream, replace(spoken(40, 40), words=None, text="eight"), 200)
    place(stream, replace(spoken(40, 40), words=()), 280)
    assert stream.stretches(pieces) == [
        Stretch(0, 30, tuple(pieces.encode("seven"))),
        Stretch(40, 100, tuple(pieces.encode("eight"))),
    ]


def test_a_sequence_follows_the_protocol() -> None:
    vocabulary = train_vocabulary(1)
    control = vocabulary.control
    sequence = stream_sequence(vocabulary, "Hi.", {1: digit_reply(7)}, {0}, 3)
    prompt = vocabulary.tokenizer.encode("Hi.").ids
    step = [control.audio_begin, *[control.pad] * FEATURES_PER_CHUNK, control.assistant]
    turn = reply_tokens(vocabulary, digit_reply(7))
    assert turn[:2] == [control.text_begin, control.normal]
    assert turn[-1] == control.text_end
    begin = control.text_begin
    prefix = [control.online, control.english, begin, begin, *prompt, control.text_end]
    silence = [control.keep_silence]
    assert sequence.ids == prefix + step + silence + step + turn + step + silence
    assert {sequence.ids[position] for position in sequence.audio_positions} == {control.pad}
    learnt = [label for label in sequence.labels if label != IGNORED]
    assert learnt == turn + silence


def clip(kind: ClipKind, text: str) -> AlignedClip:
    words = tuple(
        Word(word, 10 + 20 * index, 30 + 20 * index) for index, word in enumerate(text.split())
    )
    num_frames = 20 * len(words) + 20
    return AlignedClip(
        key=text,
        kind=kind,
        held_out=False,
        audio=np.full(num_frames * FRAME_SAMPLES, 1000, np.int16),
        words=words,
        phones=np.ones(num_frames, np.uint8),
        spans=spans_of(text) if kind is ClipKind.ORDER else (),
    )


def order_clip(text: str) -> AlignedClip:
    return clip(ClipKind.ORDER, text)


@pytest.mark.parametrize(
    "recipe", ["human order", "swapped order", "grafted order", "turned order", "cut order"]
)
def test_surgery_keeps_words_and_reply_together(recipe: str) -> None:
    clips = [
        order_clip("can i get a large latte with a bit of soy milk and brown sugar"),
        order_clip("make me a double shot dark roast mocha with some cream"),
    ]
    utterances = Utterances(clips, {}, random.Random(3))
    for _ in range(60):
        made = utterances.make(recipe)
        assert made.words
        assert made.phones is not None
        assert made.end <= len(made.phones) + 2
        order = {
            span.slot: span.text
            for span in spans_of(" ".join(word.text for word in made.words))
            if span.slot is not None
        }
        if Slot.DRINK in order and made.words[-1].text != "with":
            assert made.reply == order_reply(order)
        else:
            assert made.reply is None


def test_what_synthetic_voices_say_is_answered_by_its_words() -> None:
    said = ("seven", "what is two plus two", "thank you", "the cat sat on the mat", "")
    audio = np.full(SAMPLE_RATE, 1000, np.int16)
    speech = [SpeechClip(words, "flite:slt", audio) for words in said]
    utterances = Utterances([], {}, random.Random(4), speech=speech)
    made = {
        recipe: utterances.make(recipe)
        for recipe in ("synthetic digit", "question", "phrase", "other speech", "foreign speech")
    }
    assert [spoken.said for spoken in made.values()] == [*said[:4], None]
    assert [spoken.reply and spoken.reply.text for spoken in made.values()] == [
        "You said seven.",
        "Two plus two is four.",
        "You are welcome.",
        None,
        None,
    ]
    assert "repeated" not in utterances.recipes
    assert utterances.make("question").end == 100


def test_a_sound_is_answered_while_it_lasts_and_after_it_began() -> None:
    rng = np.random.default_rng(5)
    recording = np.zeros(5 * SAMPLE_RATE, np.float32)
    recording[SAMPLE_RATE : 4 * SAMPLE_RATE] = 0.3 * rng.standard_normal(3 * SAMPLE_RATE)
    sounds = {label: [recording] for label in SOUND_REPLIES}
    utterances = Utterances([], sounds, random.Random(6))
    answered = ignored = 0
    for _ in range(100):
        made = utterances.make("sound")
        assert made.phones is not None
        label = SOUND_CLASSES[int(made.phones.max())]
        if made.reply is None:
            ignored += 1
            assert SOUND_REPLIES.get(label) is None
        else:
            answered += 1
            assert made.reply == SOUND_REPLIES[label]
            assert made.doubt is not None
            onset = int((made.phones > 0).argmax())
            earliest, latest = made.doubt
            assert onset < earliest <= latest <= onset + SOUND_FRAMES[1]
            assert latest <= len(made.phones)
    assert answered > 2 * ignored > 0  # of the sounds, 7 are answered and 5 are not


def test_a_sound_that_comes_again_is_answered_once() -> None:
    recording = np.zeros(3 * SAMPLE_RATE, np.float32)
    bark = slice(SAMPLE_RATE, SAMPLE_RATE + SAMPLE_RATE // 4)
    recording[bark] = 0.5 * np.sin(np.arange(SAMPLE_RATE // 4))
    sounds = {label: [recording] for label in SOUND_REPLIES}
    utterances = Utterances([], sounds, random.Random(7))
    num_barks = []
    for _ in range(400):
        made = utterances.make("sound")
        if made.reply != SOUND_REPLIES["dog bark"]:
            continue
        assert made.phones is not None
        heard = made.phones > 0
        num_barks.append(int(heard[0]) + int(np.count_nonzero(heard[1:] & ~heard[:-1])))
        assert made.doubt is not None
        assert made.doubt[1] - int(heard.argmax()) >= SOUND_FRAMES[0]
    # Two dogs may bark twice, and one of them may be cut in two by the edge of the recording.
    assert {1, 2} < set(num_barks) <= {1, 2, 3, 4, 5, 6}


def test_some_sounds_lie_over_another_of_their_kind() -> None:
    time = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    low, high = (0.3 * np.sin(2 * np.pi * hertz * time).astype("f4") for hertz in (500, 2000))
    utterances = Utterances([], {"fire crackling": [low, high]}, random.Random(16))
    levels = []
    for _ in range(100):
        audio = utterances._sound("fire crackling").audio
        spectrum = np.abs(np.fft.rfft(audio[: SAMPLE_RATE // 2]))
        levels.append(20 * np.log10(spectrum[990:1011].max() / spectrum[240:261].max()))
    mixed = [level for level in levels if abs(level) < 16]
    assert 5 < len(mixed) < 40
    assert np.ptp(mixed) > 10


def test_only_one_thread_at_a_time_unpacks_a_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacking, most = 0, 0

    def unpack(family: str) -> str:
        nonlocal unpacking, most
        unpacking += 1
        most = max(most, unpacking)
        sleep(0.02)
        unpacking -= 1
        return family

    monkeypatch.setitem(_neural.__globals__, "_load_neural", unpack)
    with ThreadPoolExecutor(4) as pool:
        assert list(map(str, pool.map(_neural, ["kokoro"] * 8))) == ["kokoro"] * 8
    assert most == 1


@pytest.mark.parametrize("make", [alarm, music])
def test_synthetic_sounds_are_audible_and_differ(
    make: Callable[[random.Random], np.ndarray],
) -> None:
    made = [make(random.Random(seed)) for seed in range(40)]
    assert len({audio.tobytes() for audio in made}) == 40
    for audio in made:
        assert audio.dtype == np.float32
        assert np.abs(audio).max() == pytest.approx(0.5, abs=1e-3)
        assert audio.size > SAMPLE_RATE // 2


def test_a_phrase_is_known_in_other_words() -> None:
    assert phrase_reply("i am so tired") == phrase_reply("i'm tired")
    assert phrase_reply("what's your name") == phrase_reply("what is your name")
    assert phrase_reply("turn on the window") is None


def test_all_emotions_occur_among_the_phrases() -> None:
    emotions = {intent.reply.emotion for intent in intents()}
    assert emotions == {"happy", "sad", "angry", "surprise", "normal", "urgent"}


def test_no_wording_belongs_to_two_phrases() -> None:
    for intent in intents():
        for wording in intent.wordings:
            assert phrase_reply(wording) == intent.reply, wording


def test_prompts_are_speech_without_an_answer(tmp_path: Path) -> None:
    for manifest in ("coffee_orders", "digits", "wake_words", "sounds"):
        (tmp_path / f"{manifest}.jsonl").touch()
    hum = 0.3 * np.sin(np.arange(8 * SAMPLE_RATE) / 20).astype(np.float32)
    for name in (
        *("en_US_f_Allison/vm-long", "en_US_f_Allison/digits/3", "en_US_f_Allison/digits/30"),
        *("en_US_f_Allison/hello-world", "en_US_f_Allison/beep", "ru_RU_f_IvrvoiceRU/vm-long"),
        *("es_MX_f_Allison/digits/3", "en_US_f_Allison/hello", "en_US_f_Allison/vm-tocallnum"),
    ):
        path = tmp_path / "prompts" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, hum, SAMPLE_RATE)
    (path.parent / "is.wav").touch()
    (path.parent / "README.txt").write_text("Recorded by somebody.")
    recordings = {
        entry.file.removeprefix("prompts/").removesuffix(".wav"): entry
        for entry in read_manifests(tmp_path)
    }
    known = {name: (entry.kind, is_held_out(entry)) for name, entry in recordings.items()}
    assert known == {
        "en_US_f_Allison/digits/3": (Kind.DIGIT_PROMPT, True),
        "en_US_f_Allison/digits/30": (Kind.PROMPT, False),
        "en_US_f_Allison/hello": (Kind.PHRASE_PROMPT, True),
        "en_US_f_Allison/hello-world": (Kind.PROMPT, False),
        "en_US_f_Allison/vm-long": (Kind.PROMPT, False),
        "en_US_f_Allison/vm-tocallnum": (Kind.PROMPT, False),
        "ru_RU_f_IvrvoiceRU/vm-long": (Kind.PROMPT, True),
    }
    assert recordings["en_US_f_Allison/digits/3"].reply == digit_reply(3)
    assert recordings["en_US_f_Allison/hello"].reply == phrase_reply("hello")
    said = {name: human_utterances(tmp_path, [entry]) for name, entry in recordings.items()}
    kinds = {name: [utterance.kind for utterance in its] for name, its in said.items()}
    unanswered = [ClipKind.FOREIGN] * 2
    assert kinds == {
        "en_US_f_Allison/digits/3": [],
        "en_US_f_Allison/digits/30": unanswered,
        "en_US_f_Allison/hello": [],
        # It begins like what is answered.
        "en_US_f_Allison/hello-world": [ClipKind.WORDS],
        "en_US_f_Allison/vm-long": unanswered,
        "en_US_f_Allison/vm-tocallnum": [ClipKind.WORDS, *unanswered],
        "ru_RU_f_IvrvoiceRU/vm-long": unanswered,
    }
    long = said["en_US_f_Allison/vm-long"]
    assert [utterance.audio.size // SAMPLE_RATE for utterance in long] == [6, 2]
    aligner = Aligner()
    clips = [clip for clip in map(aligner.align, long) if clip is not None]
    utterances = Utterances(clips, {}, random.Random(13))
    parts = [utterances.make("recorded speech") for _ in range(30)]
    assert {(part.reply, part.words, part.phones is None) for part in parts} == {(None, None, True)}
    assert len({part.audio.size for part in parts}) > 10
    assert "recorded speech" not in Utterances([], {}, random.Random(14)).recipes


def test_words_of_a_person_are_joined_to_what_is_answered() -> None:
    said = [
        clip(ClipKind.WORDS, text)
        for text in ("press one for help", "thank you for your patience", "hello world")
    ]
    utterances = Utterances(said, {}, random.Random(15))
    heard: dict[str, set[SpokenReply | None]] = defaultdict(set)
    for _ in range(100):
        made = utterances.make("joined words")
        assert made.words is not None
        assert made.audio.size == FRAME_SAMPLES * made.words[-1].end
        heard[" ".join(word.text for word in made.words)].add(made.reply)
    assert heard == {
        "one": {digit_reply(1)},
        **{text: {phrase_reply(text)} for text in ("help", "help help", "thank you", "hello")},
    }
    assert "joined words" not in Utterances(said[1:], {}, random.Random(16)).recipes


def test_words_that_a_person_said_in_a_row_are_also_taken_apart() -> None:
    slow = replace(
        clip(ClipKind.WORDS, "you have one"),
        words=(Word("you", 0, 40), Word("have", 40, 60), Word("one", 60, 80)),
    )
    said = [clip(ClipKind.WORDS, "thank you"), slow]
    utterances = Utterances(said, {}, random.Random(19))
    made = [utterances.make("joined words") for _ in range(100)]
    thanks = [it.audio.size for it in made if it.reply == phrase_reply("thank you")]
    assert set(thanks) == {40 * FRAME_SAMPLES, 60 * FRAME_SAMPLES}


@pytest.mark.parametrize(("is_by_few", "slowest"), [(False, 0.84), (True, 0.76)])
def test_what_few_people_said_is_heard_at_more_speeds(is_by_few: bool, slowest: float) -> None:
    rng = random.Random(17)
    said = Spoken(np.ones(SAMPLE_RATE, np.float32), None, None, None, is_by_few=is_by_few)
    longest = max(spoken_differently(said, rng).audio.size for _ in range(200))
    assert longest * slowest == pytest.approx(SAMPLE_RATE, rel=0.02)


def test_held_out_voices_are_not_drawn_for_training() -> None:
    jobs = [job for piece in range(8) for job, _ in plan_short(piece, seed=3)]
    assert not any(is_held_out_voice(job.voice) for job in jobs)
    families = {job.voice.partition(":")[0] for job in jobs}
    assert families == {"english", "piper", "flite", "espeak"}
    assert is_held_out_voice("espeak:en-gb+f5")
    assert is_held_out_voice("espeak:es+m1")
    assert not is_held_out_voice("espeak:en-us+m1")


def test_a_word_alone_may_lose_its_beginning_and_keeps_its_end() -> None:
    rng = random.Random(9)
    word = (Word("seven", 10, 50),)
    said = [tightly(replace(spoken(60, 50), words=word), rng) for _ in range(40)]
    starts = []
    for made in said:
        assert made.words
        assert made.reply == digit_reply(7)
        assert 0 < made.end <= made.audio.size / FRAME_SAMPLES
        starts.append(made.words[0].start)
    assert min(starts) < 0 < max(starts)


def three() -> Spoken:
    phones = np.array([PHONES.index(p) for p in ["TH"] * 20 + ["R"] * 20 + ["IY"] * 20], np.uint8)
    audio = np.ones(60 * FRAME_SAMPLES, np.float32)
    return Spoken(audio, (Word("three", 0, 60),), phones, digit_reply(3))


def test_a_word_alone_may_lose_all_before_its_first_vowel() -> None:
    rng = random.Random(11)
    left = [tightly(three(), rng).phones for _ in range(200)]
    assert all(said is not None and (said == PHONES.index("IY")).sum() > 12 for said in left)
    assert any(said is not None and set(said) == {PHONES.index("IY")} for said in left)


def test_a_word_keeps_the_only_vowel_that_it_begins_with() -> None:
    rng = random.Random(15)
    phones = np.array([PHONES.index(p) for p in ["EY"] * 20 + ["T"] * 40], np.uint8)
    eight = replace(three(), phones=phones, words=(Word("eight", 0, 60),), reply=digit_reply(8))
    left = [tightly(eight, rng).phones for _ in range(200)]
    vowels = {int((said == PHONES.index("EY")).sum()) for said in left if said is not None}
    assert vowels == {19, 20}


def test_an_r_may_be_a_tap() -> None:
    rng = random.Random(12)
    made = [tapped(three(), rng) for _ in range(50)]
    for said in made:
        assert said.phones is not None
        assert said.words is not None
        assert said.audio.size == len(said.phones) * FRAME_SAMPLES
        assert said.words == (Word("three", 0, len(said.phones)),)
        assert said.reply == digit_reply(3)
        quiet = said.audio[int(20.6 * FRAME_SAMPLES) :] < 0.7
        assert (np.diff(quiet.astype(int)) == 1).sum() == 1
        assert 0.015 < quiet.sum() / SAMPLE_RATE < 0.05
        assert 3 <= (said.phones == PHONES.index("R")).sum() < 20
    assert len({said.audio.size for said in made}) > 10


def test_only_an_r_before_a_vowel_is_tapped() -> None:
    rng = random.Random(13)
    four = np.array([PHONES.index(p) for p in ["F"] * 20 + ["AO"] * 20 + ["R"] * 20], np.uint8)
    said = replace(three(), phones=four)
    assert tapped(said, rng) is said


def test_an_r_between_vowels_is_interrupted_at_once() -> None:
    zero = np.array([PHONES.index(p) for p in ["IH"] * 20 + ["R"] * 20 + ["OW"] * 20], np.uint8)
    made = tapped(replace(three(), phones=zero), random.Random(14))
    assert made.audio[int(20.5 * FRAME_SAMPLES)] < 0.5
    assert made.audio[int(19.5 * FRAME_SAMPLES)] == 1


def test_some_digits_that_people_say_have_a_tapped_r() -> None:
    said, spoken_three = clip(ClipKind.DIGIT, "three"), three()
    assert spoken_three.phones is not None
    said = replace(said, phones=spoken_three.phones, audio=np.ones(60 * FRAME_SAMPLES, np.int16))
    digits = [replace(said, words=(Word(word, 0, 60),)) for word in DIGIT_WORDS]
    utterances = Utterances(digits, {}, random.Random(15))
    sizes = np.array([utterances.make("human digit").audio.size for _ in range(300)])
    assert 0.5 < np.mean(sizes == said.audio.size) < 0.7


def test_milk_and_sugar_are_named_the_other_way_round() -> None:
    said = order_clip("make me a latte with a bit of soy milk and brown sugar")
    made = Utterances([said], {}, random.Random(12)).make("turned order")
    assert made.words
    text = " ".join(word.text for word in made.words)
    assert text == "make me a latte with brown sugar and a bit of soy milk"
    order = {span.slot: span.text for span in said.spans if span.slot is not None}
    assert made.reply == order_reply(order)


def tone_clip(kind: ClipKind, hertz: float) -> AlignedClip:
    said = clip(kind, "can i get a large latte")
    time = np.arange(said.audio.size) / SAMPLE_RATE
    return replace(said, audio=(8000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16))


def test_shuffled_speech_has_no_words_and_no_clicks() -> None:
    utterances = Utterances([tone_clip(ClipKind.ORDER, 2.0)], {}, random.Random(10))
    for _ in range(20):
        made = utterances.make("shuffled")
        assert (made.words, made.phones, made.reply) == (None, None, None)
        assert 0.1 < np.abs(made.audio).max() < 0.25
        assert np.abs(np.diff(made.audio)).max() < 0.25 / 40


def test_babble_is_of_many_voices_and_gets_no_reply() -> None:
    sentences = {ClipKind.ORDER: 300, ClipKind.FOREIGN: 500, ClipKind.OTHER: 700}
    tones = {**sentences, ClipKind.DIGIT: 900, ClipKind.WORDS: 1100}
    clips = [tone_clip(kind, hertz) for kind, hertz in tones.items()]
    utterances = Utterances(clips, {}, random.Random(11))
    heard = set()
    for _ in range(20):
        made = utterances.make("babble")
        assert (made.words, made.phones, made.reply) == (None, None, None)
        assert rms(made.audio) == pytest.approx(0.1, rel=0.01)
        spectrum = np.abs(np.fft.rfft(made.audio)) / made.audio.size
        loud = np.fft.rfftfreq(made.audio.size, 1 / SAMPLE_RATE)[spectrum > 0.005]
        voices = {round(hertz, -2) for hertz in loud}
        assert len(voices) > 1
        heard |= voices
    assert heard == set(sentences.values()), "a digit alone could be heard out of babble"


def test_every_digit_is_said_with_accents() -> None:
    lines = {job.line for piece in range(40) for job, _ in plan_short(piece, seed=8)}
    accented = {line.words for line in lines if line.text[0] in "[/"}
    assert accented == set(DIGIT_WORDS)


def test_an_exported_model_is_loaded_back(tmp_path: Path) -> None:
    vocabulary = train_vocabulary(1)
    model = TrainingModel(TINY_SHAPE, vocabulary.size, num_words=7)
    initialise(model, torch.randn(2, 3, 128, 40))
    export(model, vocabulary, tmp_path)
    loaded = load_checkpoint(str(tmp_path), device="cpu")
    assert loaded.control_tokens == vocabulary.control
    assert loaded.sliding_window == TINY_SHAPE.window
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    log_mel = torch.randn(2, 3, 128, 40)
    with torch.no_grad():
        expected = model.encode(log_mel).unflatten(1, (3, -1)).flatten(0, 1)
        torch.testing.assert_close(loaded.audio_tower(log_mel.flatten(0, 1)), expected)
        ids = torch.randint(0, vocabulary.size, (2, 9))
        torch.testing.assert_close(
            loaded.language_model(ids).logits, model.decoder(ids).logits, atol=1e-4, rtol=1e-4
        )


def test_the_embedded_checkpoint_is_small() -> None:
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*") if path.is_file())
    assert size <= MAX_CHECKPOINT_BYTES


def test_wilson_interval_of_known_shares() -> None:
    low, high = wilson_interval(77, 100)
    assert low == pytest.approx(0.6785, abs=1e-3)
    assert high == pytest.approx(0.8416, abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_edit_distance_counts_edits() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([1, 2], []) == 2


def test_pieces_are_known_again_from_what_is_written() -> None:
    said = ["can i get a large latte", "what is two plus two", "they say the cat sat on the mat"]
    pieces = train_word_pieces(said * 3)
    again = word_pieces_of(pieces.written())
    for text in [*said, "the latest chatter"]:
        assert again.encode(text) == pieces.encode(text)
        assert again.text_of(again.encode(text)) == text


def test_another_vocabulary_keeps_what_both_have() -> None:
    old, new = train_vocabulary(1), train_vocabulary(1, ["A giraffe has a long neck."] * 9)
    embedding = torch.randn(old.size, 4)
    anew = embedded_anew(embedding, old, new)
    assert anew.shape == (new.size, 4)
    assert torch.equal(anew[new.control.text_begin], embedding[old.control.text_begin])
    (seven,), (seven_before,) = (v.tokenizer.encode(" seven").ids for v in (new, old))
    assert torch.equal(anew[seven], embedding[seven_before])


def test_a_run_begins_with_ears_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    heard_with, pieces = train_vocabulary(1), train_word_pieces(["seven"])
    ears = TrainingModel(TINY_SHAPE, heard_with.size, pieces.size)
    monkeypatch.setattr(beginning, "load_ears", lambda _: (ears, heard_with, pieces))
    assert not beginning.has_ears(tmp_path)
    begun = beginning.from_ears(tmp_path, tmp_path, seed=1)
    model = TrainingModel(begun.shape, begun.vocabulary.size, begun.pieces.size)
    begun.begin(model)
    assert torch.equal(model.tower.encoder.proj.weight, ears.tower.encoder.proj.weight)
    assert torch.equal(model.word_head.weight, ears.word_head.weight)
    log_mel = torch.randn(1, 2, 128, 40)
    ids, positions = torch.arange(24)[None], torch.arange(20)[None]
    words = [it(log_mel, ids, positions).words for it in (model, ears)]
    torch.testing.assert_close(words[0], words[1])
    hears = [layer.self_attn.q_proj.weight for layer in model.decoder.model.layers[-2:]]
    assert torch.equal(*hears), "the layer on top is that below, adding nothing"
    assert not model.decoder.model.layers[-1].mlp.down_proj.weight.any()
    assert beginning.from_ears(tmp_path, tmp_path, seed=2).vocabulary.size == begun.vocabulary.size


def test_words_are_learnt_where_they_are_known_and_nowhere_else() -> None:
    logits = torch.zeros(1, 12, 3, requires_grad=True)
    batch = StreamBatch(
        log_mel=torch.empty(0),
        ids=torch.empty(0),
        labels=torch.empty(0),
        audio_positions=torch.empty(0),
        phones=torch.empty(0),
        transcripts=[(0, Stretch(0, 4, (1,))), (0, Stretch(8, 12, ()))],
    )
    words_loss(logits, batch).backward()
    assert logits.grad is not None
    moved = logits.grad[0].abs().sum(dim=1) > 0
    assert moved.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert (logits.grad[0, 8:, 0] < 0).all(), "where nobody speaks the blank becomes likelier"


def test_every_everyday_sound_is_described_and_openly_licensed_where_it_is_learnt() -> None:
    table = everyday_sounds()
    assert len({entry.file for entry in table}) == len(table)
    for entry in table:
        assert entry.sound in SOUND_REPLIES or entry.sound in UNANSWERED_SOUNDS, entry
        assert entry.author, entry
        if entry.split is Split.TRAINING:
            assert entry.licence.startswith(("CC0", "CC BY", "public domain")), entry
            assert "NC" not in entry.licence, entry
    for split in Split:
        assert {"alarm", "animal", "typing"} <= {e.sound for e in table if e.split is split}


def test_everyday_sounds_are_gathered_once_and_heard_in_training(tmp_path: Path) -> None:
    sources, data = tmp_path / "sources", tmp_path / "data"
    siren = next(e for e in everyday_sounds() if e.reply and e.split is Split.TRAINING)
    typing = next(e for e in everyday_sounds() if e.sound == "typing" and e.source.endswith(".ogg"))
    noise = 0.2 * np.random.default_rng(3).standard_normal(8_000 * 45)
    for entry in (siren, typing):
        path = sources / entry.source
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise, 8_000, format="WAV")
    num_there, missing = gather(sources, data)
    assert num_there == 2
    assert len(missing) == len(everyday_sounds()) - 2
    (sources / siren.source).unlink()
    assert gather(sources, data)[0] == 2  # what was kept once needs no source

    sounds = load_everyday_sounds(data, Split.TRAINING)
    assert set(sounds) == {siren.sound, "typing"}
    assert all(audio.size == 40 * SAMPLE_RATE for audio in sounds["typing"])
    utterances = Utterances([], sounds, random.Random(8))
    answered = utterances._sound(siren.sound)
    assert answered.reply == SOUND_REPLIES[siren.sound]
    ignored = utterances._sound("typing")
    assert ignored.reply is None
    assert ignored.said == ""  # and nothing is written
    assert ignored.audio.size <= 10 * SAMPLE_RATE
