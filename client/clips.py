"""What can be played into a conversation instead of speaking: sample recordings, and files.

The samples are this checkout's own: they are there before any server is, and on every server alike.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from client.audio_format import SAMPLE_RATE_HZ, Samples
from client.messages import ClientError, Language, message

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"
LISTS = ("samples.json", "sounds.json")
FILE_KINDS = ("wav", "mp3", "ogg", "flac")
READ_SECONDS = 0.2


class SampleKind(StrEnum):
    """What is to be heard."""

    SOUND = "sound"
    VOICE = "voice"


@dataclass(frozen=True, slots=True)
class Sample:
    """A recording that comes with the application."""

    path: Path
    kind: SampleKind
    titles: Mapping[Language, str]
    source: str
    licence: str

    def title(self, language: Language) -> str:
        """What it is called; a voice's title says what it says, in English."""
        return self.titles.get(language, self.titles[Language.ENGLISH])


def load_samples() -> list[Sample]:
    """All of them: sounds, then voices."""
    told: list[dict[str, Any]] = []
    for name in LISTS:
        told += json.loads((SAMPLES_FOLDER / name).read_text(encoding="utf-8"))
    samples = [_sample(fields) for fields in told]
    return sorted(samples, key=lambda sample: sample.kind)


def _sample(fields: dict[str, Any]) -> Sample:
    titles = {Language.ENGLISH: fields["title"]}
    if "title_zh" in fields:
        titles[Language.CHINESE] = fields["title_zh"]
    return Sample(
        SAMPLES_FOLDER / fields["file"],
        SampleKind(fields["kind"]),
        titles,
        fields["source"],
        fields["licence"],
    )


def credit_lines(samples: Iterable[Sample]) -> list[str]:
    """Every source once, with its licence."""
    named = (f"{sample.source.rsplit(',', 1)[0]}, {sample.licence}" for sample in samples)
    return list(dict.fromkeys(named))


class Clip:
    """A recording at 16 kHz, decoded while it is heard, so that it may be long.

    Args:
        name: by which it is shown.
        source: what WAV, MP3, Ogg or FLAC is read from.

    Raises:
        ClientError: it is none of these.
    """

    def __init__(self, name: str, source: Path | BinaryIO) -> None:
        self.name = name
        try:
            self._file = soundfile.SoundFile(source)
        except (OSError, soundfile.LibsndfileError) as error:
            raise ClientError(message("problem.unreadable", name=name)) from error
        self._resampler = soxr.ResampleStream(
            self._file.samplerate, SAMPLE_RATE_HZ, num_channels=1, dtype="float32"
        )
        self._decoded: Samples = np.empty(0, np.float32)
        self._is_decoded = False

    def read(self, num_samples: int) -> Samples:
        """The next `[num_samples]`; fewer at its end."""
        while len(self._decoded) < num_samples and not self._is_decoded:
            self._decoded = np.concatenate([self._decoded, self._decode()])
        given, self._decoded = self._decoded[:num_samples], self._decoded[num_samples:]
        return given

    def _decode(self) -> Samples:
        num_wanted = round(READ_SECONDS * self._file.samplerate)
        try:
            block: Samples = self._file.read(num_wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            block = np.empty((0, 1), np.float32)  # the rest is broken
        self._is_decoded = len(block) < num_wanted
        mono = block.mean(axis=1, dtype=np.float32)
        samples: Samples = self._resampler.resample_chunk(mono, last=self._is_decoded)
        return samples
