"""What readers of a recording are given: a summary, the story, the sound."""

import json
import logging
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from backend.errors import RecordingError, SessionFileError
from backend.recordings.export.fields import Fields, story_fields
from backend.recordings.export.sound import mp3
from backend.recordings.reader import Checked, SessionFile
from backend.recordings.store import size_of
from backend.recordings.story import read_story

logger = logging.getLogger(__name__)

NAME = "this recording"
"""What errors call a recording: its path is nobody's business."""
MAX_SOUND_BYTES = 64_000_000
"""Of the sounds that are kept, about five hours; the newest is kept in any case."""
MAX_STORY_BYTES = 64_000_000
"""Of the stories that are kept: an hour takes two megabytes."""
MAX_SUMMARIES = 1000
"""That are kept, of about a kilobyte each."""
MAX_CHECKED = 10_000
"""Files that are known to be whole."""

Find = Callable[[], Path]
Use = TypeVar("Use")


def read(
    find: Find, use: Callable[[SessionFile], Use], checked: "Kept[Checked] | None" = None
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


def _use(path: Path, use: Callable[[SessionFile], Use], checked: "Kept[Checked] | None") -> Use:
    known = None if checked is None else checked.find(path)
    with SessionFile(path, NAME, known) as file:
        if checked is not None and known is None:
            checked.keep(path, file.checked)
        return use(file)


@contextmanager
def needing_room() -> Iterator[None]:
    """For what is done with a recording in temporary files.

    Raises:
        RecordingError: the system refuses them.
    """
    try:
        yield
    except OSError as error:
        raise no_room(error) from error


def no_room(reason: object) -> RecordingError:
    """What is told where temporary files cannot be written; the log says why."""
    # It names places on the server.
    logger.warning("no temporary files: %s", reason)
    return RecordingError("the server has no room to do this: its log says why", "recording_full")


def summary_fields(file: SessionFile) -> Fields:
    """What it is, in a few words."""
    manifest, story = file.manifest, read_story(file)
    return {
        "title": manifest.title,
        "started_at": manifest.started_at.isoformat(timespec="seconds"),
        "seconds": round(file.seconds, 3),
        "bytes": size_of(file.path),
        "is_complete": file.is_complete,
        "checkpoint": manifest.checkpoint.model_dump(),
        "num_replies": len(story.replies),
        "left_machine": {"online_voice_replies": story.num_online_replies},
    }


def story_json(file: SessionFile) -> bytes:
    """The story as JSON in UTF-8."""
    fields = story_fields(file, read_story(file))
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


class Kept(Generic[Use]):
    """What was made of packed recordings, to be found without opening them again.

    Used by several threads.

    Args:
        size_of: of one of them.
        max_size: of all of them; the newest is kept in any case.
    """

    def __init__(self, size_of: Callable[[Use], int], max_size: int) -> None:
        self._size_of = size_of
        self._max_size = max_size
        self._kept: OrderedDict[_Version, Use] = OrderedDict()
        self._changing = threading.Lock()

    def find(self, path: Path) -> Use | None:
        """What was made of this very version of a file; None where nothing was."""
        version = _version(path)
        with self._changing:
            if version is None or version not in self._kept:
                return None
            self._kept.move_to_end(version)
            return self._kept[version]

    def keep(self, path: Path, made: Use) -> None:
        """Keep it; but not of a recording that goes on, of which there is more later."""
        with self._changing:
            # Looked at only now: of one that was deleted meanwhile, nothing is kept after `forget`.
            if (version := _version(path)) is None:
                return
            self._kept[version] = made
            while len(self._kept) > 1 and sum(map(self._size_of, self._kept.values())) > (
                self._max_size
            ):
                self._kept.popitem(last=False)

    def forget(self, path: Path) -> None:
        """Keep nothing of a recording that was deleted."""
        with self._changing:
            # Under one name it lay in a folder, under another in a file.
            name = path.name.partition(".")[0]
            for version in [v for v in self._kept if v.path.name.partition(".")[0] == name]:
                del self._kept[version]


@dataclass(frozen=True, slots=True)
class _Version:
    path: Path
    modified_ns: int
    num_bytes: int


def _version(path: Path) -> _Version | None:
    """Tells a file from what it was and will be; None of a folder, and where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Version(path, found.st_mtime_ns, found.st_size)


class MadeOnce(Generic[Use]):
    """What is made of recordings: of a packed one once, while it is kept.

    Args:
        make: makes it.
        kept: where it is kept.
    """

    def __init__(self, make: Callable[[SessionFile], Use], kept: Kept[Use]) -> None:
        self.kept = kept
        self._make = make

    def of(self, file: SessionFile) -> Use:
        """What is made of this one."""
        made = self._make(file)
        self.kept.keep(file.path, made)
        return made


def summaries() -> MadeOnce[Fields]:
    """What recordings are, in a few words."""
    return MadeOnce(summary_fields, Kept(lambda _: 1, MAX_SUMMARIES))


def stories() -> MadeOnce[bytes]:
    """What was said and decided in recordings, as JSON."""
    return MadeOnce(story_json, Kept(len, MAX_STORY_BYTES))


class Sounds:
    """Recordings as MP3, made once while they are being listened to. Used by several threads."""

    def __init__(self, max_bytes: int = MAX_SOUND_BYTES) -> None:
        self.kept: Kept[bytes] = Kept(len, max_bytes)
        self._making = threading.Lock()
        self._live: tuple[tuple[Path, float], bytes] | None = None

    def of(self, file: SessionFile) -> bytes:
        """Both sides in one channel."""
        # One at a time: whoever asks for the same finds it, and a processor stays free.
        with self._making:
            if (sound := self.kept.find(file.path)) is not None:
                return sound
            # One that goes on has another sound later.
            key = (file.path, file.seconds)
            if self._live is not None and self._live[0] == key:
                return self._live[1]
            sound = mp3(file)
            if file.path.is_dir():
                self._live = key, sound
            else:
                self.kept.keep(file.path, sound)
            return sound

    def forget(self, path: Path) -> None:
        """Keep nothing of a recording that was deleted."""
        self.kept.forget(path)
        with self._making:
            self._live = None
