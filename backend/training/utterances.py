"""Clips cut, joined and swapped into things to say, with what is right to answer."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.training.align import PHONES, AlignedClip, ClipKind, Word
from backend.training.augment import change_speed, colour, random_noise, rms
from backend.training.broad_speech import SpeechClip
from backend.training.data import SAMPLE_RATE
from backend.training.domain import (
    DIGIT_WORDS,
    SOUND_REPLIES,
    Slot,
    Span,
    SpokenReply,
    digit_reply,
    intents,
    order_reply,
    phrase_reply,
    wake_word_reply,
)
from backend.training.knowledge import SaidKind, answer
from backend.training.synthetic_sounds import alarm, music

FRAME_SAMPLES = SAMPLE_RATE // 100

BUILT_IN_RECIPES: Mapping[str, float] = {
    "human order": 0.13,
    "swapped order": 0.12,
    "grafted order": 0.08,
    "turned order": 0.04,
    "synthetic order": 0.06,
    "human digit": 0.22,
    "synthetic digit": 0.22,
    "wake word": 0.05,
    "synthetic wake word": 0.015,
    "phrase": 0.45,
    "question": 0.1,
    "outside": 0.08,
    "repeated": 0.04,
    "joined words": 0.08,
    "other speech": 0.24,
    "foreign speech": 0.06,
    "recorded speech": 0.15,
    "cut order": 0.05,
    "fragment": 0.02,
    "reversed": 0.01,
    "shuffled": 0.05,
    "babble": 0.06,
    "sound": 0.6,
    "burst": 0.02,
}
"""How often what is drawn from the embedded checkpoint's recordings."""
OWN_RECIPES: Mapping[str, float] = {"own": 0.85, "burst": 0.1, "alarm": 0.05}
"""How often what is drawn where there are somebody's own recordings alone."""


def mixed(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Half of each of two sets of recipes, which share none."""
    return {
        name: share / (2 * sum(half.values()))
        for half in (first, second)
        for name, share in half.items()
    }


SYNTHETIC: Mapping[str, SaidKind] = {
    "synthetic order": SaidKind.ORDER,
    "synthetic digit": SaidKind.DIGIT,
    "synthetic wake word": SaidKind.WAKE_WORD,
    "phrase": SaidKind.PHRASE,
    "question": SaidKind.QUESTION,
    "outside": SaidKind.OUTSIDE,
    "repeated": SaidKind.REPEATED,
    "other speech": SaidKind.OTHER,
    "foreign speech": SaidKind.UNKNOWN,
}
"""What is drawn from synthetic speech."""

VOWELS = tuple(index for index, phone in enumerate(PHONES) if phone[0] in "AEIOU")
"""As indices into PHONES."""
SOUND_CLASSES = (*PHONES, *SOUND_REPLIES)
"""What a feature may be: a phone or a sound."""
SOUND_FRAMES = (80, 180)
"""A sound is answered after some time between these, from its onset, whether it lasts or not:
sooner, a cry, a crow and an alarm are alike, and nobody knows whether a dog will bark again."""
REPEATED_SHARE = 0.5
"""How many of the sounds are heard again after a pause, which is not answered again."""
OVERLAID_SHARE = 0.3
"""How many of the recorded sounds have another one of their kind beneath them: there are few."""
OVERLAID_ATTENUATION_DB = (0.0, 15.0)
REPEATED_PAUSE_FRAMES = (20, 250)
REPEATED_PART_FRAMES = (50, 350)
LOUD_SHARE = 0.08
ANSWERED_SOUNDS_WEIGHT = 2.0
"""How often a sound with a reply is drawn, relative to one without: chainsaws are easily taken for
helicopters, and are the worse ones to miss."""
ALARM_WEIGHT = 5.0
"""The same of alarms: there are the most kinds of them."""
MADE_SOUNDS = ("alarm", "music")
"""There are always some of these."""
RECORDED_SHARE = 0.6
"""How many alarms, and how much music, are recorded, where there are recordings."""
LONGEST_SOUND_FRAMES = 600
"""As much of a longer recording is heard at once."""

JOINED_DIGIT_SHARE = 0.35
"""How many of the things that are put together from a person's words are digits."""
LONGEST_RUN = 3
"""Words that are taken from one recording together at most: in a row they sound natural, and words
of a few recordings, put together, are said in more ways."""

LATE_SHARE = 0.65
LATE_PART = 0.35
"""How much of a word that is said alone is lost at most, or all before its first vowel and this
part of the vowel: whoever listens may begin too late, and consonants at the beginning may be too
soft to be heard."""
LATE_PART_OF_ONLY_VOWEL = 0.1
"""The same of a word that begins with its only vowel: an `eight` that has lost more ends like a
`three`, and training with it teaches that a `three` is an `eight`."""

R = PHONES.index("R")
TAPPED_SHARE = 0.4
"""How many of the digits that a person says have their r, if any, made a tap."""
TAP_FRAMES = (2, 4)
TAP_ATTENUATION_DB = (8.0, 25.0)

PART_FRAMES = (60, 600)
"""How long a part of recorded speech is."""
SHUFFLED_SECONDS = (0.06, 0.3)
BABBLING = (4, 24)
"""How many people make up babble."""
TWO_THINGS_SHARE = 0.5
"""How many of the endings that are put after another order's drink name both milk and sugar."""

SPEEDS = (0.84, 1.2)
WIDER_SPEEDS = (0.76, 1.3)
"""Of words said alone, of prompts, and of sounds, because few people and things made them: pitch
and formants move with the speed."""

NARROW_SHARE = 0.35
NARROW_SHARE_OF_ONE_WORD = 0.5
"""How much is heard through a line at 8 kHz, which takes away what tells most consonants apart:
beside a word that is said alone there is nothing else to go by."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A waveform and what is in it; times in frames of 10 ms, which may be fractions."""

    audio: np.ndarray
    """float32, [samples]"""
    words: tuple[Word, ...] | None
    """None: not known, and not to be learnt."""
    phones: np.ndarray | None
    """uint8, [frames]; None: not known."""
    reply: SpokenReply | None
    text: str | None = None
    """What is said, where it is known but not when; without words where nothing is."""
    doubt: tuple[float, float] | None = None
    """Frames between which it may be answered, where no word ends an utterance: at the second at
    the latest."""
    is_by_few: bool = False
    """Whether it is longer than a word, and yet only a few voices ever said the like."""

    @property
    def said(self) -> str | None:
        """Words with spaces between them; None where they are not known."""
        return self.text if self.words is None else " ".join(word.text for word in self.words)

    @property
    def end(self) -> float:
        """Frame at which the last word ends, or at which a sound is known for what it is."""
        if self.doubt:
            return self.doubt[1]
        return self.words[-1].end if self.words else self.audio.size / FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class OwnTurn:
    """One turn of somebody's own conversation, ready to be spoken."""

    audio: np.ndarray
    """int16, [samples]"""
    end: int
    """Frame of 10 ms after which nothing loud follows."""
    reply: SpokenReply | None
    clip: AlignedClip | None
    """The same audio with its words, where its transcript is known and fits."""

    def spoken(self) -> Spoken:
        """As recorded; without a clip, there are no words or phones to be learnt."""
        if self.clip is not None:
            return replace(_whole(self.clip), reply=self.reply)
        audio = self.audio.astype(np.float32) / 32767
        return Spoken(audio, None, None, self.reply, doubt=(self.end, self.end))


def _piece(clip: AlignedClip, start: int, stop: int) -> Spoken:
    """Frames `start` to `stop` of a clip, with the words that lie inside."""
    words = tuple(
        Word(word.text, word.start - start, word.end - start)
        for word in clip.words
        if word.start >= start - 2 and word.end <= stop + 2
    )
    audio = clip.audio[start * FRAME_SAMPLES : stop * FRAME_SAMPLES].astype(np.float32) / 32767
    return Spoken(audio, words, clip.phones[start:stop], None)


def _whole(clip: AlignedClip) -> Spoken:
    return _piece(clip, 0, len(clip.phones))


def _join(pieces: Sequence[Spoken]) -> Spoken:
    """Pieces one after the other."""
    words: list[Word] = []
    frames = 0
    audios, phones = [], []
    for piece in pieces:
        assert piece.words is not None
        assert piece.phones is not None
        words += [Word(w.text, w.start + frames, w.end + frames) for w in piece.words]
        num_frames = len(piece.phones)
        audios.append(_fit(piece.audio, num_frames * FRAME_SAMPLES))
        phones.append(piece.phones)
        frames += num_frames
    return Spoken(np.concatenate(audios), tuple(words), np.concatenate(phones), None)


def _fit(audio: np.ndarray, num_samples: int) -> np.ndarray:
    return np.pad(audio, (0, max(0, num_samples - audio.size)))[:num_samples]


def _pause(num_frames: int) -> Spoken:
    silence = np.zeros(num_frames * FRAME_SAMPLES, np.float32)
    return Spoken(silence, (), np.zeros(num_frames, np.uint8), None)


def _louder(piece: Spoken, like: Spoken) -> Spoken:
    """`piece` at the level of `like`."""
    return replace(piece, audio=piece.audio * (rms(like.audio) / rms(piece.audio)))


def _order_of(spans: Sequence[Span]) -> dict[Slot, str]:
    return {span.slot: span.text for span in spans if span.slot is not None}


def _drink_index(clip: AlignedClip) -> int:
    return next(i for i, span in enumerate(clip.spans) if span.slot is Slot.DRINK)


def _has_two_things(clip: AlignedClip) -> bool:
    return {Slot.MILK, Slot.SUGAR} <= {span.slot for span in clip.spans}


def loud_frames(audio: np.ndarray) -> np.ndarray:
    """Which frames of 10 ms of `audio` [samples] are not far below the loudest: bool, [frames]."""
    num_frames = audio.size // FRAME_SAMPLES
    frames = audio[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
    level = np.sqrt(np.square(frames).mean(axis=1))
    smooth = np.convolve(level, np.full(5, 0.2), "same")
    return smooth > LOUD_SHARE * smooth.max(initial=1e-9)


def by_what_is_said(speech: Sequence[SpeechClip]) -> dict[SaidKind, dict[str, list[SpeechClip]]]:
    """Synthetic speech by what it is, and by its reply where one reply has many wordings."""
    found: dict[SaidKind, dict[str, list[SpeechClip]]] = defaultdict(lambda: defaultdict(list))
    for clip in speech:
        kind, reply = answer(clip.text)
        is_one_of_few = kind in (SaidKind.DIGIT, SaidKind.WAKE_WORD, SaidKind.PHRASE)
        label = reply.text if is_one_of_few and reply is not None else ""
        found[kind][label].append(clip)
    return {kind: dict(clips) for kind, clips in found.items()}


def _runs_of_words(clips: Sequence[AlignedClip]) -> dict[str, list[tuple[AlignedClip, int, int]]]:
    """Where one or a few words in a row are said: clip, first frame, frame after the last."""
    runs: dict[str, list[tuple[AlignedClip, int, int]]] = defaultdict(list)
    for clip in clips:
        for first in range(len(clip.words)):
            for run in range(1, LONGEST_RUN + 1):
                words = clip.words[first : first + run]
                if len(words) == run:
                    text = " ".join(word.text for word in words)
                    runs[text].append((clip, words[0].start, words[-1].end))
    return dict(runs)


class Utterances:
    """Makes one utterance after another out of recordings, synthetic speech and sounds.

    Args:
        clips: what people say.
        sounds: recordings by their label.
        rng: draws everything.
        recipes: how often what is drawn.
        conversations: somebody's own.
        speech: what synthetic voices say.
    """

    def __init__(
        self,
        clips: list[AlignedClip],
        sounds: dict[str, list[np.ndarray]],
        rng: random.Random,
        recipes: Mapping[str, float] = BUILT_IN_RECIPES,
        conversations: Sequence[Sequence[OwnTurn]] = (),
        speech: Sequence[SpeechClip] = (),
    ) -> None:
        self.rng = rng
        self.sounds = sounds
        self.sound_weights = {
            label: ANSWERED_SOUNDS_WEIGHT if SOUND_REPLIES.get(label) else 1.0
            for label in (*MADE_SOUNDS, *sounds)
        } | {"alarm": ALARM_WEIGHT}
        self.recipes = dict(recipes)
        self.conversations = conversations
        self.last_sound = ""
        self.groups: dict[ClipKind, list[AlignedClip]] = defaultdict(list)
        self.labels: dict[ClipKind, dict[str, list[AlignedClip]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.speech = by_what_is_said(speech)
        self.phrases: dict[Slot, dict[str, list[tuple[AlignedClip, Span]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for clip in clips:
            self.groups[clip.kind].append(clip)
            if clip.kind in (ClipKind.DIGIT, ClipKind.WAKE_WORD):
                self.labels[clip.kind][clip.text].append(clip)
            for span in clip.spans:
                if span.slot is not None:
                    self.phrases[span.slot][span.text].append((clip, span))
        if ClipKind.FOREIGN not in self.groups:
            self.recipes.pop("recorded speech", None)
        for recipe, kind in SYNTHETIC.items():
            if kind not in self.speech:
                self.recipes.pop(recipe, None)
        self.runs = _runs_of_words(self.groups.get(ClipKind.WORDS, []))
        self.joinable = [
            wordings
            for intent in intents()
            if (wordings := [w for w in intent.wordings if all(x in self.runs for x in w.split())])
        ]
        self.joinable_digits = [word for word in DIGIT_WORDS if word in self.runs]
        if not (self.joinable and self.joinable_digits):
            self.recipes.pop("joined words", None)
        alone = (ClipKind.DIGIT, ClipKind.WORDS)  # could be heard out of babble
        sentences: list[list[AlignedClip]] = [
            group for kind, group in self.groups.items() if kind not in alone
        ]
        self.sentences: list[Sequence[AlignedClip | SpeechClip]] = [*sentences]
        if others := self.speech.get(SaidKind.OTHER):
            self.sentences.append([clip for clips in others.values() for clip in clips])
        self.with_tails = [
            clip
            for clip in self.groups.get(ClipKind.ORDER, [])
            if _drink_index(clip) + 1 < len(clip.spans)
        ]
        self.with_two_things = [clip for clip in self.with_tails if _has_two_things(clip)]

    def draw(self) -> list[Spoken]:
        """Random utterances that belong together, most often one: not yet augmented."""
        recipe = self.rng.choices(list(self.recipes), list(self.recipes.values()))[0]
        return self._own() if recipe == "own" else [self.make(recipe)]

    def _own(self) -> list[Spoken]:
        """A conversation, half of the time from a turn other than the first on."""
        turns = self.rng.choice(self.conversations)
        first = self.rng.randrange(len(turns)) if self.rng.random() < 0.5 else 0
        return [turn.spoken() for turn in turns[first:]]

    def make(self, recipe: str) -> Spoken:
        """An utterance of the kind that `recipe` names; `own` is not one, but several."""
        rng = self.rng
        match recipe:
            case "human order":
                return self._order(rng.choice(self.groups[ClipKind.ORDER]))
            case "swapped order":
                return self._swapped(rng.choice(self.groups[ClipKind.ORDER]))
            case "grafted order":
                return self._grafted()
            case "turned order":
                return self._turned(rng.choice(self.with_two_things))
            case "human digit":
                digit = rng.randrange(len(DIGIT_WORDS))
                clips = self.labels[ClipKind.DIGIT][DIGIT_WORDS[digit]]
                spoken = _whole(rng.choice(clips))
                if rng.random() < TAPPED_SHARE:
                    spoken = tapped(spoken, rng)
                return replace(spoken, reply=digit_reply(digit))
            case "wake word":
                clips_of = self.labels[ClipKind.WAKE_WORD]
                word = rng.choice(list(clips_of))
                return replace(_whole(rng.choice(clips_of[word])), reply=wake_word_reply(word))
            case "joined words":
                return self._joined_words()
            case "recorded speech":
                return self._part(rng.choice(self.groups[ClipKind.FOREIGN]))
            case "cut order":
                return self._cut(rng.choice(self.groups[ClipKind.ORDER]))
            case "fragment":
                return self._fragment(rng.choice(self.groups[ClipKind.ORDER]))
            case synthetic if synthetic in SYNTHETIC:
                return self._synthetic(SYNTHETIC[synthetic])
            case "reversed":
                return self._reversed()
            case "shuffled":
                return self._shuffled()
            case "babble":
                return self._babble()
            case "sound":
                # Never the same one again: a sound that goes on is answered once.
                weights = {s: w for s, w in self.sound_weights.items() if s != self.last_sound}
                self.last_sound = rng.choices(list(weights), list(weights.values()))[0]
                return self._sound(self.last_sound)
            case "alarm":
                return self._sound("alarm")
            case "burst":
                size = int(rng.uniform(0.05, 1.2) * SAMPLE_RATE)
                decay = 10 ** (-rng.uniform(0.0, 3.0) * np.arange(size) / size)
                return Spoken((0.1 * random_noise(size, rng) * decay).astype("f4"), (), None, None)
        raise ValueError(f"there is no recipe {recipe!r}")

    def _order(self, clip: AlignedClip) -> Spoken:
        """An order as it is, now and then with a pause between two of its phrases."""
        reply = order_reply(_order_of(clip.spans))
        if self.rng.random() > 0.2:
            return replace(_whole(clip), reply=reply)
        span = self.rng.choice(clip.spans[1:])
        cut = clip.words[span.first].start
        # An order may be complete before `with` and `and`: a longer pause there ends it.
        longest = 25 if span.slot is None else 120
        pieces = [
            _piece(clip, 0, cut),
            _pause(self.rng.randint(5, longest)),
            _piece(clip, cut, len(clip.phones)),
        ]
        return replace(_join(pieces), reply=reply)

    def _swapped(self, clip: AlignedClip) -> Spoken:
        """An order with one or two of its phrases taken from other orders."""
        slots = [span for span in clip.spans if span.slot is not None]
        chosen = set(self.rng.sample(slots, min(len(slots), self.rng.choice((1, 1, 2)))))
        pieces, order = [], _order_of(clip.spans)
        position = 0
        whole = _whole(clip)
        for span in clip.spans:
            if span not in chosen or span.slot is None:
                continue
            values = self.phrases[span.slot]
            value = self.rng.choice(list(values))
            other, phrase = self.rng.choice(values[value])
            pieces.append(_piece(clip, position, clip.words[span.first].start))
            swapped = _piece(
                other, other.words[phrase.first].start, other.words[phrase.stop - 1].end
            )
            pieces.append(_louder(swapped, whole))
            position = clip.words[span.stop - 1].end
            order[span.slot] = value
        pieces.append(_piece(clip, position, len(clip.phones)))
        return replace(_join(pieces), reply=order_reply(order))

    def _grafted(self) -> Spoken:
        """The beginning of one order, up to its drink, and what follows the drink in another."""
        head = self.rng.choice(self.groups[ClipKind.ORDER])
        two_things = self.rng.random() < TWO_THINGS_SHARE
        tail = self.rng.choice(self.with_two_things if two_things else self.with_tails)
        head_spans = head.spans[: _drink_index(head) + 1]
        tail_spans = tail.spans[_drink_index(tail) + 1 :]
        first = _piece(head, 0, head.words[head_spans[-1].stop - 1].end)
        second = _piece(tail, tail.words[tail_spans[0].first].start, len(tail.phones))
        joined = _join([first, _louder(second, first)])
        return replace(joined, reply=order_reply(_order_of([*head_spans, *tail_spans])))

    def _turned(self, clip: AlignedClip) -> Spoken:
        """An order with milk and sugar, the last of them named first."""
        reply = order_reply(_order_of(clip.spans))
        first, second = (span for span in clip.spans if span.slot in (Slot.MILK, Slot.SUGAR))
        (start, end), (second_start, second_end) = (
            (clip.words[span.first].start, clip.words[span.stop - 1].end)
            for span in (first, second)
        )
        pieces = [
            _piece(clip, 0, start),
            _piece(clip, second_start, second_end),
            _piece(clip, end, second_start),
            _piece(clip, start, end),
            _piece(clip, second_end, len(clip.phones)),
        ]
        return replace(_join(pieces), reply=reply)

    def _cut(self, clip: AlignedClip) -> Spoken:
        """An order that stops early: complete when its drink was named, else to be ignored."""
        drink = _drink_index(clip)
        if drink + 1 < len(clip.spans) and self.rng.random() < 0.4:
            spans = clip.spans[: drink + 1]
            if len(clip.spans) > drink + 3 and self.rng.random() < 0.4:
                spans = clip.spans[: drink + 3]
            end = clip.words[spans[-1].stop - 1].end
            return replace(_piece(clip, 0, end), reply=order_reply(_order_of(spans)))
        if drink + 1 < len(clip.spans) and self.rng.random() < 0.15:
            stop = clip.spans[drink + 1].stop  # ends in `with`: more is to come
        else:
            stop = self.rng.randint(1, clip.spans[drink].first)
        return _piece(clip, 0, clip.words[stop - 1].end)

    def _fragment(self, clip: AlignedClip) -> Spoken:
        """Words from the middle of an order, without its opening and its drink together."""
        drink = _drink_index(clip)
        spans = clip.spans[1:drink] if self.rng.random() < 0.5 else clip.spans[drink + 1 :]
        if not spans:
            return self._cut(clip)
        first, stop = spans[0].first, spans[-1].stop
        return _piece(clip, clip.words[first].start, clip.words[stop - 1].end)

    def _synthetic(self, kind: SaidKind) -> Spoken:
        """Something that a synthetic voice says; what is answered alike is drawn alike often."""
        clips = self.rng.choice(list(self.speech[kind].values()))
        clip = self.rng.choice(clips)
        audio = clip.audio.astype(np.float32) / 32767
        _, reply = answer(clip.text)
        return Spoken(audio, None, None, reply, clip.text or None)

    def _joined_words(self) -> Spoken:
        """A digit or an everyday phrase put together from the words of a person who said others."""
        if self.rng.random() < JOINED_DIGIT_SHARE:
            text = self.rng.choice(self.joinable_digits)
            reply: SpokenReply | None = digit_reply(DIGIT_WORDS.index(text))
        else:
            text = self.rng.choice(self.rng.choice(self.joinable))
            reply = phrase_reply(text)
        words = text.split()
        pieces: list[Spoken] = []
        while words:
            beginnings = (" ".join(words[:n]) for n in range(1, min(LONGEST_RUN, len(words)) + 1))
            run = self.rng.choice([text for text in beginnings if text in self.runs])
            clip, start, end = self.rng.choice(self.runs[run])
            piece = _piece(clip, start, end)
            pieces.append(_louder(piece, pieces[0]) if pieces else piece)
            words = words[len(run.split()) :]
        return replace(_join(pieces), reply=reply, is_by_few=True)

    def _sound(self, label: str) -> Spoken:
        """A sound, recorded or made, answered once, some time after it began."""
        rng = self.rng
        is_made = label not in self.sounds or rng.random() > RECORDED_SHARE
        if label in MADE_SOUNDS and is_made:
            audio = alarm(rng) if label == "alarm" else music(rng)
            loud = loud_frames(audio)
        else:
            audio, loud = self._recorded_sound(label)
        reply = SOUND_REPLIES.get(label)
        known = None
        if reply is not None and loud.any():
            onset = int(loud.argmax())
            known = onset + rng.randint(*SOUND_FRAMES)
            # What is said next begins after the answer is due.
            audio = np.pad(audio, (0, max(0, known * FRAME_SAMPLES - audio.size)))
            loud = np.pad(loud, (0, max(0, known - loud.size)))
        sound_class = SOUND_CLASSES.index(label) if label in SOUND_CLASSES else 0
        phones = np.where(loud, sound_class, 0).astype(np.uint8)
        if known is None:
            return Spoken(audio, (), phones, None)
        return Spoken(audio, (), phones, reply, doubt=(onset + SOUND_FRAMES[0], known))

    def _recorded_sound(self, label: str) -> tuple[np.ndarray, np.ndarray]:
        """A part of a recording, often with a pause and another part: [samples], loud [frames]."""
        rng = self.rng
        recording = self._excerpt(rng.choice(self.sounds[label]))
        if rng.random() < OVERLAID_SHARE:
            other = np.resize(rng.choice(self.sounds[label]), recording.size)
            level = 10 ** (-rng.uniform(*OVERLAID_ATTENUATION_DB) / 20)
            recording = recording + level * np.roll(other, rng.randrange(other.size))
        loud = np.append(loud_frames(recording), False)
        num_frames = loud.size - 1
        frames = _fit(recording, loud.size * FRAME_SAMPLES).reshape(loud.size, FRAME_SAMPLES)
        frames[num_frames] = 0.0
        audible = np.flatnonzero(loud)

        def part(shortest: int, longest: int) -> np.ndarray:
            size = min(num_frames, rng.randint(shortest, longest))
            start = int(rng.choice(audible)) - rng.randrange(size)
            return np.clip(start, 0, num_frames - size) + np.arange(size)

        if rng.random() < REPEATED_SHARE:
            pause = np.full(rng.randint(*REPEATED_PAUSE_FRAMES), num_frames)
            heard = np.concatenate(
                [part(*REPEATED_PART_FRAMES), pause, part(*REPEATED_PART_FRAMES)]
            )
        else:
            heard = part(150, max(150, num_frames))
        return frames[heard].ravel(), loud[heard]

    def _excerpt(self, recording: np.ndarray) -> np.ndarray:
        """As much of a recording as is heard at once, some of it loud: [samples]."""
        size = LONGEST_SOUND_FRAMES * FRAME_SAMPLES
        if recording.size <= size:
            return recording
        audible = int(self.rng.choice(np.flatnonzero(loud_frames(recording)))) * FRAME_SAMPLES
        start = min(max(0, audible - self.rng.randrange(size)), recording.size - size)
        return recording[start : start + size]

    def _part(self, clip: AlignedClip) -> Spoken:
        """A part of speech of which only that it gets no reply is known; often all of it."""
        size = min(len(clip.phones), self.rng.randint(*PART_FRAMES))
        start = self.rng.randint(0, len(clip.phones) - size)
        part = _piece(clip, start, start + size)
        return replace(part, words=None, phones=None, is_by_few=True)

    def _reversed(self) -> Spoken:
        """Speech played backwards: voices without words."""
        clip = self.rng.choice(self.rng.choice(self.sentences))
        audio = clip.audio.astype(np.float32)[::-1] / 32767
        size = self.rng.randint(min(audio.size, SAMPLE_RATE // 2), audio.size)
        return Spoken(audio[:size], None, None, None)

    def _shuffled(self) -> Spoken:
        """A person's speech in a random order of its sounds: a voice in no language."""
        clip = self.rng.choice(self.groups[ClipKind.ORDER])
        audio = clip.audio.astype(np.float32) / 32767
        fade = np.linspace(0.0, 1.0, SAMPLE_RATE // 200, dtype=np.float32)
        pieces = []
        for _ in range(self.rng.randint(5, 20)):
            size = min(audio.size, int(self.rng.uniform(*SHUFFLED_SECONDS) * SAMPLE_RATE))
            start = self.rng.randint(0, audio.size - size)
            piece = audio[start : start + size].copy()
            piece[: fade.size] *= fade  # no click that tells it from speech
            piece[-fade.size :] *= fade[::-1]
            pieces.append(piece)
        return Spoken(np.concatenate(pieces), None, None, None)

    def _babble(self) -> Spoken:
        """Several people at once, none of them louder than all others."""
        rng = self.rng
        size = int(rng.uniform(1.5, 8.0) * SAMPLE_RATE)
        voices = np.zeros(size, np.float32)
        for _ in range(rng.randint(*BABBLING)):
            clip = rng.choice(rng.choice(self.sentences))
            audio = clip.audio.astype(np.float32) / 32767
            part = np.roll(_fit(audio, max(audio.size, size)), rng.randrange(size))[:size]
            voices += part * (rng.uniform(0.4, 1.0) / rms(audio))
        return Spoken(0.1 * voices / rms(voices), None, None, None)


def tapped(spoken: Spoken, rng: random.Random) -> Spoken:
    """With its first r before a vowel said as in Athens, Madrid or Glasgow: by a short tap.

    Half of the r, or all and a little more, is left out, and what follows interrupted for a
    moment. The recorded people say r as in America, or swallow it.
    """
    phones = spoken.phones
    assert phones is not None
    assert spoken.words is not None
    before_vowels = np.flatnonzero((phones[:-1] == R) & np.isin(phones[1:], VOWELS))
    if not before_vowels.size:
        return spoken
    vowel = int(before_vowels[0]) + 1
    others = np.flatnonzero(phones[:vowel] != R)
    first = int(others[-1]) + 1 if others.size else 0
    start = min(rng.randint((first + vowel) // 2, vowel + 4), len(phones))
    removed = start - first
    audio = np.delete(spoken.audio, np.s_[first * FRAME_SAMPLES : start * FRAME_SAMPLES])
    after_vowel = first > 0 and phones[first - 1] in VOWELS
    tap = first + (0 if after_vowel else rng.randint(1, 3))
    end = tap + rng.randint(*TAP_FRAMES)
    level = np.ones(len(phones) - removed)
    level[tap:end] = 10 ** (-rng.uniform(*TAP_ATTENUATION_DB) / 20)
    middles = np.arange(level.size) + 0.5
    gain = np.interp(
        np.arange(audio.size) / FRAME_SAMPLES,
        np.insert(middles, first, first),
        np.insert(level, first, 0.0),  # no click where the r was
    )
    new_phones = np.delete(phones, np.s_[first:start])
    new_phones[first:end] = R

    def moved(frame: int) -> int:
        return frame if frame <= first else max(first, frame - removed)

    words = tuple(Word(word.text, moved(word.start), moved(word.end)) for word in spoken.words)
    tapped_audio = audio * gain.astype(np.float32)
    return replace(spoken, audio=tapped_audio, words=words, phones=new_phones)


def spoken_differently(spoken: Spoken, rng: random.Random) -> Spoken:
    """The same at another speed, in another room, over another microphone."""
    is_one_word = len((spoken.said or "").split()) == 1
    is_sound = not spoken.words and spoken.phones is not None
    speeds = WIDER_SPEEDS if is_one_word or is_sound or spoken.is_by_few else SPEEDS
    factor = 1.0 if rng.random() < 0.2 else rng.uniform(*speeds)
    audio = spoken.audio
    if factor != 1.0:
        audio = change_speed(audio, factor)
    audio = colour(audio, rng, NARROW_SHARE_OF_ONE_WORD if is_one_word else NARROW_SHARE)
    words = spoken.words
    if words is not None:
        words = tuple(
            Word(word.text, round(word.start / factor), round(word.end / factor)) for word in words
        )
    doubt = spoken.doubt and (spoken.doubt[0] / factor, spoken.doubt[1] / factor)
    phones = spoken.phones
    if phones is not None:
        num_frames = int(len(phones) / factor)
        source = np.minimum((np.arange(num_frames) + 0.5) * factor, len(phones) - 1)
        phones = phones[source.astype(np.int64)]
    return Spoken(audio, words, phones, spoken.reply, spoken.text, doubt)


def _latest_start(phones: np.ndarray, word: Word) -> float:
    """Frame up to which a word may lose its beginning; `phones` [frames] of the utterance."""
    latest = word.start + LATE_PART * (word.end - word.start)
    begin, end = max(0, int(word.start)), max(0, int(word.end))
    vowels = np.isin(phones[begin:end], VOWELS)
    if not vowels.any():
        return latest
    first = int(vowels.argmax())
    consonants = np.flatnonzero(~vowels[first:])
    length = int(consonants[0]) if consonants.size else vowels.size - first
    if first == 0 and not vowels[length:].any():
        return word.start + LATE_PART_OF_ONLY_VOWEL * length
    return max(latest, begin + first + LATE_PART * length)


def tightly(spoken: Spoken, rng: random.Random) -> Spoken:
    """Without the margin before the first word and after the last; a word alone may lose more."""
    if not spoken.words or spoken.phones is None:
        return spoken
    first = spoken.words[0]
    start = int(first.start) - rng.randint(0, 4)
    if len(spoken.words) == 1 and rng.random() < LATE_SHARE:
        start = int(rng.uniform(first.start, _latest_start(spoken.phones, first)))
    start = max(0, start)
    stop = min(len(spoken.phones), int(spoken.words[-1].end) + rng.randint(0, 6))
    words = tuple(Word(w.text, w.start - start, w.end - start) for w in spoken.words)
    audio = spoken.audio[start * FRAME_SAMPLES : stop * FRAME_SAMPLES]
    return Spoken(audio, words, spoken.phones[start:stop], spoken.reply)
