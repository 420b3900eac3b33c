"""The recordings that ship with the project: anybody may read them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.errors import RecordingError
from backend.recordings.reader import SessionFile
from backend.recordings.store import SUFFIX
from backend.recordings.story import read_story

LIST = "gallery.json"
_TEXTS = ("title", "title_zh", "about", "about_zh")


class Gallery:
    """Recordings in a folder, with a list of what they are.

    Args:
        folder: holds `gallery.json` and the files that it names; without it there are none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> list[dict[str, Any]]:
        """What there is, in the list's order.

        Raises:
            SessionFileError: one of them is damaged.
        """
        return [_entry(self._path(listed["name"]), listed) for listed in self._listed()]

    def find(self, name: str) -> Path:
        """The file of a recording.

        Raises:
            RecordingError: there is none of this name.
        """
        if any(listed["name"] == name for listed in self._listed()):
            return self._path(name)
        raise RecordingError("there is no such recording in the gallery", "recording_not_found")

    def _listed(self) -> list[dict[str, Any]]:
        path = self._folder / LIST
        listed: list[dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        )
        return [entry for entry in listed if self._path(entry["name"]).exists()]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"


def _entry(path: Path, listed: dict[str, Any]) -> dict[str, Any]:
    seconds, emotions = _heard(path, path.stat().st_mtime_ns)
    texts = {name: listed[name] for name in _TEXTS if name in listed}
    return {"name": listed["name"], **texts, "seconds": seconds, "emotions": emotions}


@lru_cache(maxsize=64)
def _heard(path: Path, modified_ns: int) -> tuple[float, list[str]]:
    """How long it is, and the emotions of its replies; `modified_ns` tells versions apart."""
    with SessionFile(path, f"{path.name} of the gallery") as file:
        replies = read_story(file).replies
        named = dict.fromkeys(str(reply.emotion) for reply in replies if reply.emotion is not None)
        return round(file.seconds, 3), list(named)
