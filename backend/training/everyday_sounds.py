"""Recorded sounds of every day: the table beside this module, and those of it that are there."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import soundfile
import soxr
import yaml

from backend.training.data import SAMPLE_RATE, load_audio
from backend.training.domain import SOUND_REPLIES, SpokenReply
from backend.training.split import Split

EVERYDAY = "everyday"
"""Folder of the recordings in the data folder, one folder for each source."""
LONGEST_SECONDS = 40
"""Of a recording, from its beginning."""
UNANSWERED_SOUNDS = (
    *("animal", "appliance", "bell", "crowd", "engine", "horn", "knock", "person", "telephone"),
    *("thing", "traffic", "typing", "water", "weather"),
)
"""Kinds of sounds that get no reply, beside those of the domain that get none."""


@dataclass(frozen=True, slots=True)
class EverydaySound:
    """One recording of the table."""

    source: str
    """Where it is in the folders of the sources' repositories: `repository/folder/file`."""
    file: str
    """Where it is kept in the folder of everyday sounds."""
    sound: str
    """One of SOUND_REPLIES or UNANSWERED_SOUNDS."""
    split: Split
    author: str
    licence: str

    @property
    def reply(self) -> SpokenReply | None:
        """What is answered; None where the model stays silent."""
        return SOUND_REPLIES.get(self.sound)


@cache
def everyday_sounds() -> tuple[EverydaySound, ...]:
    """The whole table."""
    text = resources.files("backend.training").joinpath("everyday_sounds.yaml").read_text("utf-8")
    return tuple(
        EverydaySound(
            "/".join([entry["repository"].rpartition("/")[2], entry["folder"], recording["file"]]),
            f"{source}/{Path(recording['file']).with_suffix('.ogg')}",
            recording["sound"],
            Split(recording["split"]),
            recording["author"],
            recording["licence"],
        )
        for source, entry in yaml.safe_load(text).items()
        for recording in entry["recordings"]
    )


def gather(sources: Path, data: Path) -> tuple[int, list[str]]:
    """Keep the beginnings of the table's recordings in the data folder, as Ogg at 16 kHz.

    Args:
        sources: the folder in which the sources' repositories were cloned.
        data: the data folder; what is there stays as it is.

    Returns:
        how many are there, and what was not found in `sources`.
    """
    missing = []
    for entry in everyday_sounds():
        path, source = data / EVERYDAY / entry.file, sources / entry.source
        if path.exists():
            continue
        if not source.exists():
            missing.append(entry.source)
            continue
        rate = soundfile.info(source).samplerate
        audio, _ = soundfile.read(
            source, frames=LONGEST_SECONDS * rate, dtype="float32", always_2d=True
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        mono = soxr.resample(audio.mean(axis=1), rate, SAMPLE_RATE)
        with soundfile.SoundFile(partial, "w", SAMPLE_RATE, 1, format="OGG") as file:
            for start in range(0, mono.size, SAMPLE_RATE):  # libsndfile overflows its stack
                file.write(mono[start : start + SAMPLE_RATE])
        partial.replace(path)
    return len(everyday_sounds()) - len(missing), missing


def load_everyday_sounds(data: Path, split: Split) -> dict[str, list[np.ndarray]]:
    """Recordings of a split that are in the data folder, by their sound; at a peak of 0.5."""
    loaded: dict[str, list[np.ndarray]] = defaultdict(list)
    for entry in everyday_sounds():
        path = data / EVERYDAY / entry.file
        if entry.split is split and path.exists():
            audio = load_audio(path)
            loaded[entry.sound].append(audio * (0.5 / max(1e-6, np.abs(audio).max())))
    return dict(loaded)
