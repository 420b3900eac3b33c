"""Held-out audio: what is streamed to a checkpoint that is scored, and what is right to answer."""

import itertools
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from backend.audio import read_audio
from backend.training.align import AlignedClip, align_all
from backend.training.augment import narrow, rms
from backend.training.broad_speech import SpeechClip, SpeechStore, keep_asked
from backend.training.clips import human_utterances
from backend.training.data import SAMPLE_RATE, Kind, LabelledRecording, is_held_out, load_audio
from backend.training.domain import (
    SOUND_REPLIES,
    Slot,
    SpokenReply,
    intents,
    order_reply,
    phrase_reply,
)
from backend.training.knowledge import SaidKind, answer
from backend.training.split import Split
from backend.training.streams import KITCHEN_TRAINING_SHARE
from backend.training.synthetic_sounds import alarm, music
from backend.training.voices import (
    ESPEAK_ACCENTS,
    HELD_OUT_LANGUAGES,
    HELD_OUT_VARIANTS,
    HELD_OUT_VOICES,
    SpokenText,
    Synthesis,
    load_word_lists,
    reading,
    synthesise_all,
    trim_silence,
    wordings_of_phrases,
)

DEFAULT_WORK = Path("~/.cache/audio-interaction-training").expanduser()
TRIALS = "trials"
"""In the working folder: speech that no training hears."""

ORDER_LABEL = "an order"
HALF_ORDER_LABEL = "half an order"

TELEPHONE_BAND_HZ = (300.0, 3400.0)
QUIETER_DB = 24.0
SLOW_VOICE = "kokoro"
SLOW_VOICE_STRIDE = 3
"""A voice of this family takes a second for a phrase: it reads every third."""

ASKED_SEED = 23
NUM_ALARMS = 60
NUM_MUSIC = 60
NUM_PAIRS = 150
LEAD_SECONDS = (0.2, 0.6)
"""Before what is said; where it begins in a chunk of 0.4 s matters."""
PLACES_SECONDS = tuple(LEAD_SECONDS[0] + 0.04 * place for place in range(10))
"""The same, for few recordings: all over a chunk."""
GAP_SECONDS = (0.6, 1.2)
"""Between two utterances in a row."""
PAUSE_SECONDS = (0.4, 1.2)
"""Inside an order."""
TALK_SECONDS = 25.0
"""Of conversation before a late sound: by then, a session's first words have left the window."""
TALK_GAP_SECONDS = (1.2, 3.0)
NUM_BABBLING = 28

Change = Callable[[np.ndarray], np.ndarray]
"""Audio [samples] to audio [samples]."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One session: what is streamed, and what is right to answer."""

    name: str
    said: str
    """What is heard, for the confusions: a digit, wake word, sound, intent, or kind of order."""
    audio: np.ndarray
    """float32, [samples]"""
    expected: tuple[SpokenReply, ...]
    """In order; empty where the model stays silent."""
    resumes_at: int = 0
    """Sample at which speech goes on after a pause."""
    judged_from: int = 0
    """Sample up to which it does not matter what is said."""


def tight(audio: np.ndarray) -> np.ndarray:
    """Cut so that speech begins with the first sample and ends with the last."""
    return trim_silence(audio, margin_seconds=0.0, threshold=0.02)


def with_noise(noise: np.ndarray, ratio_db: float) -> Change:
    """Adds a part of `noise` that is `ratio_db` below the speech, another part each time."""
    position = 0

    def add(audio: np.ndarray) -> np.ndarray:
        nonlocal position
        part = np.resize(np.roll(noise, -position), audio.size)
        position = (position + audio.size) % noise.size
        voice = tight(audio)
        level = rms(voice) * np.abs(audio).max() / np.abs(voice).max()
        return audio + part * (level / rms(noise) * 10 ** (-ratio_db / 20))

    return add


def by_telephone(audio: np.ndarray) -> np.ndarray:
    """What a line of 300 to 3400 Hz, sampled at 8 kHz, carries of `audio` [samples]."""
    spectrum = np.fft.rfft(narrow(audio))
    frequencies = np.fft.rfftfreq(audio.size, 1 / SAMPLE_RATE)
    low, high = TELEPHONE_BAND_HZ
    spectrum[(frequencies < low) | (frequencies > high)] = 0.0
    return np.fft.irfft(spectrum, audio.size).astype(np.float32)


def quieter(audio: np.ndarray) -> np.ndarray:
    """`audio` [samples] at a sixteenth of its amplitude."""
    return audio * np.float32(10 ** (-QUIETER_DB / 20))


def unchanged(audio: np.ndarray) -> np.ndarray:
    """`audio` itself."""
    return audio


def silence(seconds: float) -> np.ndarray:
    """Digital silence, [samples]."""
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def in_a_row(
    clips: list[np.ndarray], num_samples: int, gap_seconds: tuple[float, float], rng: random.Random
) -> np.ndarray:
    """All of `clips` in random order, again and again, with random gaps: [num_samples]."""
    pieces: list[np.ndarray] = []
    size = 0
    while size < num_samples:
        for clip in rng.sample(clips, len(clips)):
            pieces += [clip, silence(rng.uniform(*gap_seconds))]
            size += pieces[-2].size + pieces[-1].size
    return np.concatenate(pieces)[:num_samples]


def babble(clips: list[np.ndarray], num_samples: int, rng: random.Random) -> np.ndarray:
    """Many voices at once, near and far, at an RMS of 0.05: [num_samples]."""
    voices = np.zeros(num_samples, np.float32)
    for _ in range(NUM_BABBLING):
        voice = in_a_row(clips, num_samples, (0.1, 0.6), rng)
        voices += np.roll(voice, rng.randrange(num_samples)) * rng.uniform(0.3, 1.0)
    return voices * (0.05 / rms(voices))


def held_out_readings() -> list[Synthesis]:
    """Every everyday phrase and foreign sentence, in voices that training never hears."""
    accents = itertools.cycle(itertools.product(ESPEAK_ACCENTS, HELD_OUT_VARIANTS))
    lines = wordings_of_phrases()
    pairs = [
        (line, f"espeak:{accent}+{variant}")
        for line, (accent, variant) in zip(lines, accents, strict=False)
    ]
    for voice in HELD_OUT_VOICES:
        stride = SLOW_VOICE_STRIDE if voice.startswith(SLOW_VOICE) else 1
        pairs += [(line, voice) for line in lines[::stride]]
    foreign = load_word_lists().foreign
    pairs += [
        (SpokenText("foreign", sentence), f"espeak:{language}+{variant}")
        for language in HELD_OUT_LANGUAGES
        for sentence in foreign[language]
        for variant in HELD_OUT_VARIANTS
    ]
    return [reading(line, voice, random.Random(f"{voice} {line.text}")) for line, voice in pairs]


def phrase_trial(job: Synthesis, audio: np.ndarray) -> Trial | None:
    """An everyday phrase that was read aloud, after a moment of silence; None of what is none."""
    reply = phrase_reply(job.line.text)
    if not reply:
        return None
    names = {intent.reply.text: intent.name for intent in intents()}
    name = f"{job.line.text!r} {job.voice}"
    lead = silence(random.Random(name).uniform(*LEAD_SECONDS))
    return Trial(name, names[reply.text], np.concatenate([lead, audio]), (reply,))


class HeldOut:
    """Trials from the held-out recordings, voices and sounds.

    Args:
        data: folder of recordings.
        recordings: of which the held-out ones are used.
        work: folder in which synthetic speech is kept.
        workers: processes that align, threads that synthesise.
    """

    def __init__(
        self,
        data: Path,
        recordings: list[LabelledRecording],
        work: Path = DEFAULT_WORK,
        workers: int = 2,
    ) -> None:
        self.data, self.work, self.workers = data, work, workers
        self.recordings = [recording for recording in recordings if is_held_out(recording)]

    def has(self, kind: Kind) -> bool:
        """Whether there is any held-out recording of a kind."""
        return any(recording.kind is kind for recording in self.recordings)

    def recorded(self, kind: Kind, change: Change = unchanged) -> list[Trial]:
        """A trial for every held-out recording of a kind."""
        return [
            Trial(
                recording.file,
                recording.label or ORDER_LABEL,
                change(load_audio(self.data / recording.file)),
                (recording.reply,) if recording.reply else (),
            )
            for recording in self.recordings
            if recording.kind is kind
        ]

    def noisy(self, kind: Kind, ratio_db: float) -> list[Trial]:
        """The same in a kitchen whose noise is `ratio_db` below the speech."""
        return self.recorded(kind, with_noise(self.kitchen, ratio_db))

    def after_silence(self, kind: Kind) -> list[Trial]:
        """The same, not from the first sample on."""
        return [
            replace(
                trial,
                audio=np.concatenate(
                    [silence(random.Random(trial.name).uniform(*LEAD_SECONDS)), trial.audio]
                ),
            )
            for trial in self.recorded(kind)
        ]

    def prompted(self, kind: Kind) -> list[Trial]:
        """Prompts that are to be answered, each begun in many places of a chunk."""
        return [
            Trial(
                f"{recording.file}, after {seconds:.2f} s",
                recording.label,
                np.concatenate([silence(seconds), read_audio(self.data / recording.file)]),
                (recording.reply,) if recording.reply else (),
            )
            for recording in self.recordings
            if recording.kind is kind
            for seconds in PLACES_SECONDS
        ]

    @cached_property
    def kitchen(self) -> np.ndarray:
        """The part of the kitchen noise that training does not use, [samples]."""
        audio = load_audio(self.data / "noise" / "kitchen.ogg")
        return audio[int(audio.size * KITCHEN_TRAINING_SHARE) :]

    @cached_property
    def readings(self) -> list[tuple[Synthesis, np.ndarray]]:
        """Synthetic speech, float32 [samples]; only what is not in the work folder is made anew."""
        cache = self.work / "held_out_voices.pkl"
        jobs = held_out_readings()
        known: dict[Synthesis, np.ndarray] = (
            pickle.loads(cache.read_bytes()) if cache.exists() else {}
        )
        if missing := [job for job in jobs if job not in known]:
            known.update(synthesise_all(missing, self.workers))
            self.work.mkdir(parents=True, exist_ok=True)
            cache.write_bytes(pickle.dumps(known))
        return [(job, known[job].astype(np.float32) / 32767) for job in jobs if job in known]

    @cached_property
    def aligned_orders(self) -> list[AlignedClip]:
        """Held-out orders with the times of their words."""
        orders = [recording for recording in self.recordings if recording.kind is Kind.ORDER]
        return list(align_all(human_utterances(self.data, orders), self.workers))

    def phrases(self, family: str) -> list[Trial]:
        """Everyday phrases in the voices of a family, after a moment of silence."""
        trials = [
            phrase_trial(job, audio)
            for job, audio in self.readings
            if job.line.kind == "phrase" and job.voice.startswith(f"{family}:")
        ]
        return [trial for trial in trials if trial]

    def asked_clips(self, kind: SaidKind, split: Split = Split.HELD_OUT) -> list[SpeechClip]:
        """Everyday questions, questions outside what is known, or words to repeat."""
        clips = keep_asked(SpeechStore(self.work / TRIALS), self.data, split, ASKED_SEED)
        return [clip for clip in clips if answer(clip.text)[0] is kind]

    def asked(self, kind: SaidKind, split: Split = Split.HELD_OUT) -> list[Trial]:
        """The same as trials, each after a moment of silence."""
        trials = []
        for clip in self.asked_clips(kind, split):
            _, reply = answer(clip.text)
            name = f"{clip.text!r} {clip.voice}"
            lead = silence(random.Random(name).uniform(*LEAD_SECONDS))
            audio = np.concatenate([lead, clip.audio.astype(np.float32) / 32767])
            trials.append(Trial(name, clip.text, audio, (reply,) if reply else ()))
        return trials

    def synthetic_sounds(self) -> list[Trial]:
        """Alarms, which are answered, and music, which is not."""
        trials = []
        for label, make, count in (("alarm", alarm, NUM_ALARMS), ("music", music, NUM_MUSIC)):
            reply = SOUND_REPLIES[label]
            for number in range(count):
                name = f"held-out {label} {number}"
                rng = random.Random(name)
                audio = np.concatenate([silence(rng.uniform(*LEAD_SECONDS)), make(rng)])
                trials.append(Trial(name, label, audio, (reply,) if reply else ()))
        return trials

    def pairs(self) -> list[Trial]:
        """Two utterances of different kinds, one soon after the other."""
        rng = random.Random("pairs")
        pools = [self.recorded(kind, tight) for kind in (Kind.DIGIT, Kind.ORDER, Kind.WAKE_WORD)]
        pools.append([*self.phrases("flite"), *self.phrases("espeak")])
        trials = []
        for _ in range(NUM_PAIRS):
            first, second = (rng.choice(pool) for pool in rng.sample(pools, 2))
            lead, gap = silence(rng.uniform(*LEAD_SECONDS)), silence(rng.uniform(*GAP_SECONDS))
            trials.append(
                Trial(
                    f"{first.name}, {second.name}",
                    f"{first.said}, {second.said}",
                    np.concatenate([lead, tight(first.audio), gap, tight(second.audio)]),
                    first.expected + second.expected,
                )
            )
        return trials

    def late_sounds(self) -> list[Trial]:
        """Every sound in the middle of a conversation, whose other replies do not count."""
        spoken = [
            [trial.audio for trial in self.recorded(kind, tight)]
            for kind in (Kind.DIGIT, Kind.ORDER, Kind.WAKE_WORD)
        ]
        trials = []
        for trial in self.recorded(Kind.SOUND):
            rng = random.Random(f"late {trial.name}")
            before: list[np.ndarray] = []
            while sum(piece.size for piece in before) < TALK_SECONDS * SAMPLE_RATE:
                before += [rng.choice(rng.choice(spoken)), silence(rng.uniform(*TALK_GAP_SECONDS))]
            talk = np.concatenate(before)
            audio = np.concatenate([talk, trial.audio])
            trials.append(replace(trial, audio=audio, judged_from=talk.size))
        return trials

    def paused_orders(self) -> list[Trial]:
        """Orders whose speaker hesitates before the drink."""
        trials = []
        for clip in self.aligned_orders:
            audio, cut = clip.audio.astype(np.float32) / 32767, _sample_of_drink(clip)
            pause = silence(random.Random(clip.key).uniform(*PAUSE_SECONDS))
            order = {span.slot: span.text for span in clip.spans if span.slot is not None}
            trials.append(
                Trial(
                    f"{clip.key}, {pause.size / SAMPLE_RATE:.1f} s",
                    ORDER_LABEL,
                    np.concatenate([audio[:cut], pause, audio[cut:]]),
                    (order_reply(order),),
                    resumes_at=cut + pause.size,
                )
            )
        return trials

    def half_orders(self) -> list[Trial]:
        """Orders that break off before the drink."""
        return [
            Trial(
                clip.key,
                HALF_ORDER_LABEL,
                clip.audio[: _sample_of_drink(clip)].astype(np.float32) / 32767,
                (),
            )
            for clip in self.aligned_orders
        ]

    def backgrounds(self, minutes: float) -> dict[str, np.ndarray]:
        """What needs no answer, by name: equal parts of `minutes`, [samples]."""
        makers: dict[str, Callable[[int], np.ndarray]] = {
            "kitchen": lambda num_samples: np.resize(self.kitchen, num_samples),
            "rain and sea waves": partial(self._sounds, ("rain", "sea waves")),
            "clock tick and helicopter": partial(self._sounds, ("clock tick", "helicopter")),
            "babble": self._babble,
            "foreign speech": self._foreign_speech,
        }
        if self.prompts:
            makers["people in another language"] = self._prompts
        num_samples = int(minutes * 60 * SAMPLE_RATE) // len(makers)
        return {name: make(num_samples) for name, make in makers.items()}

    def _sounds(self, labels: tuple[str, ...], num_samples: int) -> np.ndarray:
        clips = [trial.audio for trial in self.recorded(Kind.SOUND) if trial.said in labels]
        return in_a_row(clips, num_samples, (0.0, 0.0), random.Random("sounds"))

    def _foreign_speech(self, num_samples: int) -> np.ndarray:
        clips = [audio for job, audio in self.readings if job.line.kind == "foreign"]
        return in_a_row(clips, num_samples, (0.3, 2.0), random.Random("foreign"))

    @cached_property
    def prompts(self) -> list[np.ndarray]:
        """What a person says who is not to be answered, [samples] each."""
        recordings = [entry for entry in self.recordings if entry.kind is Kind.PROMPT]
        return [read_audio(self.data / entry.file) for entry in recordings]

    def _prompts(self, num_samples: int) -> np.ndarray:
        return in_a_row(self.prompts, num_samples, (0.3, 2.0), random.Random("prompts"))

    def _babble(self, num_samples: int) -> np.ndarray:
        clips = [audio for _, audio in self.readings]
        clips += [trial.audio for trial in self.recorded(Kind.ORDER, tight)]
        return babble(clips, num_samples, random.Random("babble"))


def _sample_of_drink(clip: AlignedClip) -> int:
    drink = next(span for span in clip.spans if span.slot is Slot.DRINK)
    return clip.words[drink.first].start * SAMPLE_RATE // 100
