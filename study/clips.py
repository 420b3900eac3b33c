"""The clips that a model is studied with: samples of ours, files, folders and manifests."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.audio import Samples, read_audio
from backend.config import SAMPLE_RATE_HZ
from backend.errors import AudioInputError, ManifestError

SAMPLES_FOLDER = Path(__file__).parents[1] / "assets" / "samples"
MANIFESTS = (".jsonl", ".json")
AUDIO = tuple(".aac .aif .aiff .flac .m4a .mka .mkv .mp3 .mp4 .ogg .opus .wav .webm .wma".split())
"""How the names of files end that a folder is searched for."""

ID_FIELDS = ("id", "uid", "sample_id", "audio_id", "key", "name")
PATH_FIELDS = ("path", "audio", "audio_path", "wav", "wav_path", "file", "file_path", "filename")
DECISION_FIELDS = ("decision", "label", "ground_truth", "gt")
RESPOND, IGNORE = "RESPOND", "IGNORE"

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


# Manifests: the layout of the Proactive-Sound-Effect-Benchmark, and lists like it


@dataclass(frozen=True, slots=True)
class ManifestClip:
    """A line of the manifest."""

    id: str
    path: str
    """As the manifest has it."""
    decision: str | None
    """What is right, where the manifest says so."""


@dataclass(frozen=True, slots=True)
class ClipManifest:
    """A manifest, and which of its fields were used."""

    clips: list[ManifestClip]
    fields: dict[str, str]


def read_clips(path: Path) -> ClipManifest:
    """The clips that a manifest of JSON lines, or of one JSON list, names.

    Raises:
        ManifestError: it cannot be read, or a line has no path.
    """
    rows = list(_rows(path))
    if not rows:
        raise ManifestError(f"{path} names no clips")
    fields = {
        role: name
        for role, names in (("id", ID_FIELDS), ("path", PATH_FIELDS), ("decision", DECISION_FIELDS))
        if (name := next((n for n in names if all(n in row for row in rows)), None)) is not None
    }
    if "path" not in fields and "id" not in fields:
        raise ManifestError(
            f"{path}: no field says where the audio is; known are {', '.join(PATH_FIELDS)}"
        )
    clips = [_clip(row, fields) for row in rows]
    doubled = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if doubled:
        raise ManifestError(f"{path} names {doubled[0]} more than once")
    return ClipManifest(clips, fields)


def _clip(row: dict[str, Any], fields: dict[str, str]) -> ManifestClip:
    path = str(row[fields["path"]]) if "path" in fields else str(row[fields["id"]])
    name = str(row[fields["id"]]) if "id" in fields else PurePosixPath(path).stem
    decision = str(row[fields["decision"]]).strip().upper() if "decision" in fields else None
    return ManifestClip(name, path, decision if decision in (RESPOND, IGNORE) else None)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    for number, line in _documents(text):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}, line {number} is not JSON") from error
        for entry in row if isinstance(row, list) else [row]:
            if not isinstance(entry, dict):
                raise ManifestError(f"{path}, line {number} is no mapping")
            yield entry


def _documents(text: str) -> Iterator[tuple[int, str]]:
    if text.lstrip().startswith("["):
        yield 1, text
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line


def find_audio(clip: ManifestClip, folder: Path) -> Path:
    """A clip's file under `folder`: at the manifest's path, at its end, or by its id.

    Raises:
        AudioInputError: it is not there.
    """
    # A path may have been written on another machine; what leads out of the folder is left away.
    parts = [
        part for part in PureWindowsPath(clip.path).parts if part not in ("..", ".", "\\", "/")
    ]
    parts = [part for part in parts if not part.endswith((":", ":\\"))]
    candidates = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    candidates += [folder / f"{clip.id}.wav"] if os.sep not in clip.id else []
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise AudioInputError(f"{clip.id}: there is no {clip.path} in {folder}")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file of results, if there is one; one that was cut off is removed from it."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


# Sound


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
