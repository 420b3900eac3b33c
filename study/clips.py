"""The clips that a model is studied with: samples of ours, files, folders and manifests."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.audio import Samples, read_audio
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"
MANIFESTS = (".jsonl", ".json")
AUDIO = tuple(".aac .aif .aiff .flac .m4a .mka .mkv .mp3 .mp4 .ogg .opus .wav .webm .wma".split())
"""How the names of files end that a folder is searched for."""

LEVELS_PER_SECOND = 100
AUDIBLE_SHARE = 1e-3
"""Of the energy of an utterance's loudest moment: what is weaker is not its beginning or end."""

Levels = npt.NDArray[np.float64]
"""Energy of every 10 ms."""


@dataclass(frozen=True, slots=True)
class StudyClip:
    """A recording, and whether it is to be answered."""

    name: str
    path: Path
    wants_reply: bool = True

    def read(self) -> Samples:
        """Its sound, float32 `[n]` at 16 kHz.

        Raises:
            AudioInputError: it cannot be read, or holds too little to tell where it ends.
        """
        samples = read_audio(self.path)
        audible_span(samples, str(self.path))
        return samples


def sample_clips() -> list[StudyClip]:
    """The repository's recordings, which the embedded checkpoint was not trained on."""
    samples = json.loads((SAMPLES_FOLDER / "samples.json").read_text(encoding="utf-8"))
    return [
        StudyClip(sample["file"], SAMPLES_FOLDER / sample["file"], sample["reply"] is not None)
        for sample in samples
    ]


def find_clips(sources: Iterable[Path], problems: list[str]) -> list[StudyClip]:
    """Every clip that files, folders and manifests name; our samples where there are none.

    Args:
        sources: a manifest is `.jsonl` or `.json`, with `path` and, where silence is right,
            `decision` IGNORE on each line.
        problems: a sentence is added for each file that a manifest names and that is not there.

    Raises:
        AudioInputError: a folder holds no audio, there is no such file, or nothing is left.
        ManifestError: a manifest cannot be read.
    """
    clips: dict[Path, StudyClip] = {}
    given = list(sources)
    for source in given:
        for clip in _clips_of(source, problems):
            clips.setdefault(clip.path.resolve(), clip)
    if given and not clips:
        raise AudioInputError("; ".join(problems) or "there are no clips")
    return list(clips.values()) or sample_clips()


def _clips_of(source: Path, problems: list[str]) -> Iterator[StudyClip]:
    if source.suffix.lower() in MANIFESTS:
        # With it comes torch, which a judge does without.
        from backend.cli.proactive import IGNORE, find_audio, read_clips

        for entry in read_clips(source).clips:
            try:
                path = find_audio(entry, source.parent)
            except AudioInputError as error:
                problems.append(str(error))
            else:
                yield StudyClip(entry.id, path, entry.decision != IGNORE)
    elif source.is_dir():
        found = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in AUDIO and path.is_file() and not path.name.startswith(".")
        )
        if not found:
            raise AudioInputError(f"{source} holds no audio: known are {', '.join(AUDIO)}")
        for path in found:
            yield StudyClip(path.relative_to(source).as_posix(), path)
    elif source.exists():
        yield StudyClip(str(source), source)
    else:
        raise AudioInputError(f"{source} is not there")


def audible_span(samples: Samples, name: str = "the recording") -> tuple[float, float]:
    """Where a recording at 16 kHz is first and last loud for 20 ms, in seconds.

    Raises:
        AudioInputError: it never is.
    """
    levels = levels_of(samples)
    is_loud = levels >= levels.max(initial=0) * AUDIBLE_SHARE
    steady = np.flatnonzero(is_loud[1:] & is_loud[:-1]) if levels.any() else np.empty(0)
    if not len(steady):
        raise AudioInputError(f"{name} has nothing in it that lasts 20 ms")
    return int(steady[0]) / LEVELS_PER_SECOND, (int(steady[-1]) + 2) / LEVELS_PER_SECOND


def levels_of(samples: Samples) -> Levels:
    """The energy of every 10 ms of a recording at 16 kHz."""
    size = SAMPLE_RATE_HZ // LEVELS_PER_SECOND
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    levels: Levels = np.mean(frames.astype(np.float64) ** 2, axis=1)
    return levels
