"""What a model goes on hearing while it learns something new, from what ships with this project.

The sample recordings, what a synthetic voice of this process reads, alarms, music, noise and quiet:
enough to see what a change to the weights does to what they knew, and nothing to download.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr

from backend.audio import read_audio
from backend.config import SAMPLE_RATE_HZ, SPEECH_RATE_HZ
from backend.errors import VoiceUnavailableError
from backend.speech.espeak import EspeakVoice
from backend.speech.voice import Prosody
from backend.training.broad_speech import SpeechClip
from backend.training.domain import (
    DIGIT_WORDS,
    SOUND_REPLIES,
    WAKE_WORDS,
    SpokenReply,
    intents,
    random_order,
    random_wording,
    spoken_text,
)
from backend.training.knowledge import answer, questions
from backend.training.streams import Corpus, Sounds, made_sounds
from backend.training.takes import Take, own_turn
from backend.training.utterances import OwnTurn
from backend.training.voices import (
    HELD_OUT_VARIANTS,
    load_word_lists,
    random_sentence,
    trim_silence,
)

SAMPLES_FOLDER = Path(__file__).parents[2] / "assets" / "samples"
VOICES = ("gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-029", "gmw/en-GB-x-rp")
VARIANTS = ("f2", "f3", "f4", "m2", "m3", "m7", "Alex", "Andrea", "Lee", "max")
"""Of espeak-ng, on top of each voice; none of these is held out in `voices.py`."""
NUM_OTHER_SENTENCES = 200
NUM_ORDERS = 100
NUM_PHRASES = 200
NUM_QUESTIONS = 40
DIGIT_READINGS = 12
WAKE_WORD_READINGS = 10

PHRASES_TO_CHECK = ("thank you", "good night", "hello", "how are you", "tell me a joke")
NUM_UNANSWERED = 6
OTHER_SEED = 31

NUM_CHUNKS = 16
"""Of a stream."""
REHEARSED = {
    "own": 0.26,
    "sound": 0.16,
    "synthetic digit": 0.14,
    "synthetic order": 0.14,
    "phrase": 0.12,
    "question": 0.05,
    "synthetic wake word": 0.08,
    "other speech": 0.24,
    "babble": 0.04,
    "reversed": 0.02,
    "burst": 0.04,
}
"""How often what is drawn."""


def sample_sounds(samples: Path = SAMPLES_FOLDER) -> tuple[list[list[OwnTurn]], Sounds]:
    """The sample recordings: what people say in them, and the sounds, beside synthetic noises."""
    spoken: list[list[OwnTurn]] = []
    sounds = made_sounds(seed=1)
    label_of = {reply.text: label for label, reply in SOUND_REPLIES.items() if reply}
    for sample in json.loads((samples / "samples.json").read_text(encoding="utf-8")):
        audio = read_audio(samples / sample["file"])
        if sample["kind"] == "sound":
            label = label_of.get(sample["reply"], Path(sample["file"]).stem)
            peak = max(1e-6, float(np.abs(audio).max()))
            sounds.events.setdefault(label, []).append(audio * (0.5 / peak))
        else:
            spoken.append([own_turn(audio, SpokenReply(sample["emotion"], sample["reply"]))])
    return spoken, sounds


def lines_to_read(rng: random.Random) -> list[str]:
    """What the embedded checkpoint answers, and sentences that it does not."""
    lists = load_word_lists()
    lines = [digit for digit in DIGIT_WORDS for _ in range(DIGIT_READINGS)]
    lines += [word for word in WAKE_WORDS for _ in range(WAKE_WORD_READINGS)]
    phrases = [wording for intent in intents() for wording in intent.wordings]
    asked = [wording for question in questions() for wording in question.wordings]
    lines += rng.choices(phrases, k=NUM_PHRASES) + rng.choices(asked, k=NUM_QUESTIONS)
    lines += [spoken_text(random_wording(random_order(rng), rng)) for _ in range(NUM_ORDERS)]
    return lines + [random_sentence(lists, rng).lower() for _ in range(NUM_OTHER_SENTENCES)]


def read_aloud(
    lines: Sequence[str], rng: random.Random, variants: Sequence[str]
) -> list[SpeechClip]:
    """Lines in voices of espeak-ng that ship with this project; none where it cannot be loaded."""

    async def read(text: str) -> SpeechClip:
        name = f"{rng.choice(VOICES)}+{rng.choice(variants)}"
        voice = EspeakVoice(name, name, name, "en")
        prosody = Prosody(rate_percent=rng.randint(-20, 30), pitch_hz=rng.randint(-70, 70))
        blocks = [block async for block in voice.synthesize(text, prosody)]
        samples = np.frombuffer(b"".join(blocks), np.int16).astype(np.float32) / 32768
        audio = trim_silence(soxr.resample(samples, SPEECH_RATE_HZ, SAMPLE_RATE_HZ), 0.02, 0.008)
        return SpeechClip(text, name, (audio * 32767).astype(np.int16))

    async def read_all() -> list[SpeechClip]:
        return [await read(line) for line in lines]

    try:
        clips = asyncio.run(read_all())
    except VoiceUnavailableError:
        return []
    return [clip for clip in clips if clip.audio.size > SAMPLE_RATE_HZ // 10]


def known_clips() -> list[Take]:
    """What tells whether old skills stay: the samples, and lines in voices that are not rehearsed.

    The lines are those that the embedded checkpoint answers, each with what is right.
    """
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    clips = [
        Take(
            sample["file"],
            read_audio(SAMPLES_FOLDER / sample["file"]),
            SpokenReply(sample["emotion"], sample["reply"]) if sample["reply"] else None,
        )
        for sample in samples
    ]
    rng = random.Random(OTHER_SEED)
    lines = [*DIGIT_WORDS[1::3], *WAKE_WORDS[::2], *PHRASES_TO_CHECK]
    lines += [random_sentence(load_word_lists(), rng).lower() for _ in range(NUM_UNANSWERED)]
    for read in read_aloud(lines, rng, HELD_OUT_VARIANTS):
        audio = read.audio.astype(np.float32) / 32767
        lead = np.zeros(rng.randrange(SAMPLE_RATE_HZ // 2), np.float32)
        clips.append(Take(read.text, np.concatenate([lead, audio]), answer(read.text)[1]))
    return clips


def rehearsal(system_prompt: str, num_lines: int, seed: int = 7) -> Corpus:
    """What streams of old skills are drawn from.

    Args:
        system_prompt: with which they are heard.
        num_lines: that are read aloud, or fewer if there are no more.
        seed: decides which.
    """
    rng = random.Random(seed)
    spoken, sounds = sample_sounds()
    lines = lines_to_read(rng)
    rng.shuffle(lines)
    speech = read_aloud(lines[:num_lines], rng, VARIANTS)
    voiced = ("babble", "reversed")  # without sentences there are none
    shares = {name: share for name, share in REHEARSED.items() if speech or name not in voiced}
    return Corpus([], sounds, spoken, system_prompt, speech, shares)
