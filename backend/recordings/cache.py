"""Use recordings that may be packed or deleted meanwhile, and keep what was made of them."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from cachetools import LRUCache

from backend.errors import SessionFileError
from backend.recordings.export.sound import mp3
from backend.recordings.reader import Checked, SessionFile, size_of
from backend.recordings.transcript import Fields, summary_fields, transcript_json

NAME = "this recording"
"""What errors call a recording: they do not tell its path."""
MAX_SOUND_BYTES = 160_000_000
"""Of the sounds that are kept: one of 12 hours, the longest, has 150 MB."""
MAX_TRANSCRIPT_BYTES = 64_000_000
"""Of the transcripts that are kept: an hour takes two megabytes."""
MAX_SUMMARIES = 1000
"""That are kept, of about a kilobyte each."""
MAX_CHECKED = 10_000
"""Files that are known to be whole."""

Find = Callable[[], Path]
"""Where a recording is now; raises RecordingError where there is none any more."""
Use = TypeVar("Use")


@dataclass(frozen=True, slots=True)
class _Version:
    """Tells a recording from what it was and will be."""

    path: Path
    modified_ns: int
    num_bytes: int

    @property
    def recording_id(self) -> str:
        """Under one name it lies in a folder, later under another in a file."""
        return self.path.name.partition(".")[0]


def _version(path: Path) -> _Version | None:
    """None where there is nothing."""
    try:
        return _Version(path, path.stat().st_mtime_ns, size_of(path))
    except OSError:
        return None


class Made(Generic[Use]):
    """What is made of recordings, kept while it is asked for. Used by several threads.

    Args:
        make: makes it.
        max_size: of all that is kept.
        size_of: of one of them.
    """

    def __init__(
        self,
        make: Callable[[SessionFile], Use],
        max_size: int,
        size_of: Callable[[Use], int] = lambda _: 1,
    ) -> None:
        self._make = make
        self._kept: LRUCache[_Version, Use] = LRUCache(max_size, size_of)
        self._changing = threading.Lock()
        self._making = threading.Lock()

    def find(self, path: Path) -> Use | None:
        """What was made of this very version of a recording; None where nothing was."""
        version = _version(path)
        with self._changing:
            return None if version is None else self._kept.get(version)

    def of(self, file: SessionFile) -> Use:
        """What is made of this one."""
        # One at a time: the next who asks for the same finds it, and a processor stays free.
        with self._making:
            version = _version(file.path)
            with self._changing:
                if version is not None and version in self._kept:
                    return self._kept[version]
            made = self._make(file)
            with self._changing:
                # Of one that was deleted meanwhile, nothing is kept after `forget`.
                if version is not None and file.path.exists():
                    self._drop(version.recording_id)
                    # What is larger than all that may be kept is not.
                    with suppress(ValueError):
                        self._kept[version] = made
            return made

    def forget(self, recording_id: str) -> None:
        """Keep nothing of a recording that was deleted."""
        with self._changing:
            self._drop(recording_id)

    def _drop(self, recording_id: str) -> None:
        for version in [v for v in self._kept if v.recording_id == recording_id]:
            del self._kept[version]


class RecordingCache:
    """What a server's recordings are read as, made once while they are asked for."""

    def __init__(self) -> None:
        self.summaries: Made[Fields] = Made(summary_fields, MAX_SUMMARIES)
        self.transcripts: Made[bytes] = Made(transcript_json, MAX_TRANSCRIPT_BYTES, len)
        self.sounds: Made[bytes] = Made(mp3, MAX_SOUND_BYTES, len)
        self.checked: Made[Checked] = Made(lambda file: file.checked, MAX_CHECKED)

    def forget(self, recording_id: str) -> None:
        """Keep nothing of a recording that was deleted."""
        for made in (self.summaries, self.transcripts, self.sounds, self.checked):
            made.forget(recording_id)


def read(
    find: Find, use: Callable[[SessionFile], Use], checked: Made[Checked] | None = None
) -> Use:
    """Use a recording, which may be packed or deleted meanwhile.

    Args:
        find: where it is.
        use: what is done with it.
        checked: knows the files that need not be gone through again, and gets to know this one.

    Raises:
        RecordingError: there is none any more.
        SessionFileError: it is damaged.
    """
    path = find()
    try:
        return _use(path, use, checked)
    except SessionFileError:
        # It goes on as a file when it has been packed.
        if (packed := find()) == path:
            raise
        return _use(packed, use, checked)


def _use(path: Path, use: Callable[[SessionFile], Use], checked: Made[Checked] | None) -> Use:
    known = None if checked is None or path.is_dir() else checked.find(path)
    with SessionFile(path, NAME, known) as file:
        if checked is not None and path.is_file():
            checked.of(file)
        return use(file)
