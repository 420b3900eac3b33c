"""What readers of a recording are given: a summary, the story, the sound."""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from backend.errors import RecordingError, SessionFileError
from backend.export.fields import Fields, story_fields
from backend.export.sound import mp3
from backend.recordings.store import size_of
from backend.session_file import SessionFile, read_story

logger = logging.getLogger(__name__)

NAME = "this recording"
"""What errors call a recording: its path is nobody's business."""
MAX_SOUND_BYTES = 64_000_000
"""Of the sounds that are kept, about five hours; the newest is kept in any case."""

Find = Callable[[], Path]
Use = TypeVar("Use")


def read(find: Find, use: Callable[[SessionFile], Use]) -> Use:
    """Use a recording, which may be packed or deleted meanwhile.

    Raises:
        RecordingError: there is none any more.
        SessionFileError: it is damaged.
    """
    path = find()
    try:
        return _use(path, use)
    except SessionFileError:
        # It goes on as a file when it has been packed.
        if (packed := find()) == path:
            raise
        return _use(packed, use)


def _use(path: Path, use: Callable[[SessionFile], Use]) -> Use:
    with SessionFile(path, NAME) as file:
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
        # It names places on the server.
        logger.warning("no temporary files: %s", error)
        raise RecordingError(
            "the server has no room to do this: its log says why", "recording_full"
        ) from error


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


class Sounds:
    """Recordings as MP3, made once while they are being listened to. Used by several threads."""

    def __init__(self, max_bytes: int = MAX_SOUND_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Path, float], bytes] = OrderedDict()
        self._making = threading.Lock()

    def of(self, file: SessionFile) -> bytes:
        """Both sides in one channel."""
        # One at a time: whoever asks for the same finds it, and a processor stays free.
        with self._making:
            # One that goes on has another sound later.
            key = (file.path, file.seconds)
            if key not in self._kept:
                self._kept[key] = mp3(file)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > self._max_bytes:
                self._kept.popitem(last=False)
            return self._kept[key]

    def forget(self, path: Path) -> None:
        """Keep nothing of a recording that was deleted."""
        with self._making:
            # Under one name it lay in a folder, under another in a file.
            name = path.name.partition(".")[0]
            for key in [key for key in self._kept if key[0].name.partition(".")[0] == name]:
                del self._kept[key]
