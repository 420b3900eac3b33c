"""Where a server's recordings lie: those of its users, and the gallery that ships with the project.

Who knows a recording's id may read and delete it. Safe to be used by several threads, and
by several servers of one folder. Nothing is made before something is recorded.
"""

import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from backend.errors import RecordingError
from backend.recordings.packing import write_annotations
from backend.recordings.reader import (
    LIVE_SUFFIX,
    LOCK,
    MANIFEST,
    Checked,
    SessionFile,
    size_of,
)
from backend.recordings.records import MAX_ANNOTATIONS, Annotation, Annotations, annotated
from backend.recordings.transcript import read_transcript

logger = logging.getLogger(__name__)

SUFFIX = ".aisession"
PART_SUFFIX = ".part"
"""Of an upload that is not complete."""
DELETED_SUFFIX = ".deleted"
"""Of a folder that is being removed."""
SHARES = "shares.json"
SHARES_LOCK = "shares.lock"
SHARES_LOCK_SECONDS = 10.0
"""To wait for another server that changes them: that takes milliseconds."""
COUNT_SECONDS = 30.0
"""Between two looks at what other servers have written into the folder."""
ID_BYTES = 24
LEAST_ROOM_BYTES = 4_000_000
"""About two minutes: with less room, of the limit or on the disk, no recording starts."""
MB = 1_000_000
LONGEST_SHARE_HOURS = 720
MAX_SHARES = 20
"""Links to one recording that have not ended."""
MAX_RECORDINGS = 20_000
"""In one folder, which is gone through where room is looked for."""
PRIVATE_FOLDER_MODE = 0o700
PRIVATE_MODE = 0o600
"""Of files: closed to other users of this machine."""
ABANDONED_SECONDS = 3600.0
"""An upload that nothing was added to for so long is not going on."""
GALLERY_LIST = "gallery.json"
_GALLERY_TEXTS = ("title", "title_zh", "about", "about_zh")

_ID = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where a server records, and how much."""

    folder: Path
    max_mb: float = 2000.0
    """Of everything in the folder."""
    may_share: bool = False
    """Whether links to recordings can be made."""


class Share(BaseModel):
    """A link to a recording."""

    recording_id: str
    expires_at: AwareDatetime


_SHARES_READER = TypeAdapter(dict[str, Share])


class RecordingStore:
    """Recordings, uploads and shares in one folder.

    Args:
        options: where, how much, and whether shares can be made.
        now: the time by which shares end.
    """

    def __init__(
        self, options: StoreOptions, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.options = options
        self._folder = options.folder
        self._now = now
        self._changing = threading.Lock()
        self._annotating = threading.Lock()
        self._num_bytes = 0
        self._counted_at = -math.inf

    # What lies there

    def ids(self) -> list[str]:
        """The ids of all recordings, those in progress and those that were cut off among them."""
        names = os.listdir(self._folder) if self._folder.exists() else []
        found = {name.removesuffix(LIVE_SUFFIX).removesuffix(SUFFIX) for name in names}
        return sorted(
            name
            for name in found
            if _ID.fullmatch(name) and (self._packed(name).exists() or self._live(name).is_dir())
        )

    def find(self, recording_id: str) -> Path:
        """The file of a recording, or its folder while there is no file.

        Raises:
            RecordingError: there is none with this id.
        """
        if _ID.fullmatch(recording_id):
            for path in (self._packed(recording_id), self._live(recording_id)):
                if path.exists():
                    return path
        raise no_such_recording()

    def delete(self, recording_id: str) -> None:
        """Remove a recording, and end its shares.

        Raises:
            RecordingError: there is none with this id, or it cannot be removed.
        """
        self.find(recording_id)
        self._change_shares(
            lambda shares: {k: s for k, s in shares.items() if s.recording_id != recording_id}
        )
        live = self._live(recording_id)
        removed = live.with_name(f"{recording_id}{DELETED_SUFFIX}")
        try:
            # In one go, so that whoever records or packs it finds it gone and not half of it; and
            # before the file, which may be about to take its place.
            if live.is_dir():
                live.rename(removed)
            self._packed(recording_id).unlink(missing_ok=True)
            if removed.exists():
                shutil.rmtree(removed)
        except OSError as error:
            raise _cannot("the recording cannot be deleted", error) from error
        self.count()

    def tidy(self) -> None:
        """Remove what a server that was killed left behind and that is of no use.

        What other servers are about to write stays.
        """
        if not self._folder.is_dir():
            return
        for recording_id in self.ids():
            if self._packed(recording_id).exists() and self._live(recording_id).is_dir():
                # It was packed, and the folder not removed any more.
                shutil.rmtree(self._live(recording_id), ignore_errors=True)
        for removed in self._folder.glob(f"*{DELETED_SUFFIX}"):
            shutil.rmtree(removed, ignore_errors=True)
        for part in self._folder.glob(f"*{PART_SUFFIX}"):
            # It may be complete by now, or another server's to remove.
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > ABANDONED_SECONDS:
                    part.unlink()

    def is_held(self, recording_id: str) -> bool:
        """Whether some server records or packs it now."""
        try:
            with self._hold(recording_id):
                return False
        except Timeout:
            return True
        except OSError:
            # It is packed, or deleted.
            return False

    def pack(self, recording_id: str, pack: Callable[[Path, Path], None]) -> None:
        """Make a file of a recording that was cut off, unless it goes on or there is no room yet.

        Args:
            recording_id: that of a folder.
            pack: makes one file of the first path at the second.

        Raises:
            SessionFileError: it cannot be read.
            RecordingError: the server failed on it.
        """
        folder = self._live(recording_id)
        with suppress(Timeout, FileNotFoundError), self._hold(recording_id):
            if not (folder / MANIFEST).exists():
                # It was cut off before anything was heard.
                shutil.rmtree(folder)
                return
            if shutil.disk_usage(folder).free < 2 * size_of(folder) + LEAST_ROOM_BYTES:
                return
            packed = folder / "packed"
            packed.unlink(missing_ok=True)
            packed.touch(PRIVATE_MODE)
            pack(folder, packed)
            os.replace(packed, self._packed(recording_id))
        self.tidy()

    def unpacked(self) -> list[str]:
        """The ids of recordings that are folders: they go on, or could not be packed."""
        return [each for each in self.ids() if self._live(each).is_dir()]

    def _hold(self, recording_id: str) -> AbstractContextManager[object]:
        lock = self._live(recording_id) / LOCK
        if not lock.exists():
            # One of before there were locks belongs to nobody who lives.
            return nullcontext()
        return FileLock(lock, 0, PRIVATE_MODE).acquire()

    # What is said of it

    def annotate(self, recording_id: str, new: Annotation, found: Checked) -> Annotations:
        """Say something of a recording that has ended; returns all that is said of it.

        Args:
            recording_id: which one.
            new: takes the place of what was said of the same; an empty one takes that away.
            found: what going through the file has found.

        Raises:
            RecordingError: there is none with this id, it still goes on, too much is said of it,
                or the file cannot be written.
            SessionFileError: it is damaged, or has changed meanwhile.
        """
        with self._annotating:
            path = self.find(recording_id)
            if path.is_dir():
                raise RecordingError(
                    "a recording can be annotated when it has ended", "recording_going"
                )
            with SessionFile(path, "this recording", found) as file:
                said = annotated(file.annotations, new)
            if len(said) > MAX_ANNOTATIONS:
                raise RecordingError(
                    f"a recording has {MAX_ANNOTATIONS} annotations at most", "invalid_value"
                )
            part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
            try:
                write_annotations(path, said, part)
            except (OSError, zipfile.BadZipFile) as error:
                raise _cannot("the annotation cannot be written", error) from error
        self.count()
        return said

    # Something new

    def new_path(self) -> tuple[str, Path]:
        """An id that cannot be guessed, and the file that is to be written for it.

        Raises:
            RecordingError: there is no room for more, or no folder can be made.
        """
        if self.count() + LEAST_ROOM_BYTES > self._max_bytes:
            raise RecordingError(
                f"the recordings on this server take up {self._num_bytes / MB:.0f} of "
                f"{self.options.max_mb:g} MB: delete some first",
                "recording_full",
            )
        try:
            # Other users of this machine are not to list the ids.
            self._folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
            free_bytes = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise _cannot("nothing can be recorded on this server", error) from error
        if free_bytes < LEAST_ROOM_BYTES:
            raise RecordingError(
                "the disk for the recordings of this server is full", "recording_full"
            )
        if len(os.listdir(self._folder)) >= MAX_RECORDINGS:
            raise RecordingError(
                f"there are {MAX_RECORDINGS} recordings on this server: delete some first",
                "recording_full",
            )
        recording_id = _new_id()
        return recording_id, self._packed(recording_id)

    def take_room(self, num_bytes: int) -> None:
        """Count what is written next.

        Raises:
            OSError: there is no room for it.
        """
        if time.monotonic() - self._counted_at > COUNT_SECONDS:
            self.count()
        with self._changing:
            if self._num_bytes + num_bytes > self._max_bytes:
                raise OSError(
                    errno.EDQUOT,
                    f"the recordings on this server have reached {self.options.max_mb:g} MB",
                )
            self._num_bytes += num_bytes

    def count(self) -> int:
        """Measure what all of it takes up, in bytes.

        Raises:
            RecordingError: the folder cannot be read.
        """
        try:
            num_bytes = size_of(self._folder)
        except OSError as error:
            raise _cannot("what is recorded cannot be measured", error) from error
        with self._changing:
            self._num_bytes = num_bytes
            self._counted_at = time.monotonic()
        return num_bytes

    # Shares

    def share(self, recording_id: str, hours: float) -> tuple[str, Share]:
        """Make a link that ends after `hours`.

        Raises:
            RecordingError: that is not allowed here, is too long, there are too many, or there is
                no such recording.
        """
        if not self.options.may_share:
            raise RecordingError("the owner of this server allows no links", "sharing_off")
        if not 1 <= hours <= LONGEST_SHARE_HOURS:
            raise RecordingError(
                f"a link holds for 1 to {LONGEST_SHARE_HOURS} hours, not {hours:g}", "invalid_value"
            )
        self.find(recording_id)
        share_id = _new_id()
        expires_at = (self._now() + timedelta(hours=hours)).replace(microsecond=0)
        share = Share(recording_id=recording_id, expires_at=expires_at)

        def add(shares: dict[str, Share]) -> dict[str, Share]:
            if sum(each.recording_id == recording_id for each in shares.values()) >= MAX_SHARES:
                raise RecordingError(
                    f"a recording has {MAX_SHARES} links at most: end one first", "too_many_shares"
                )
            return shares | {share_id: share}

        self._change_shares(add)
        return share_id, share

    def shares_of(self, recording_id: str) -> dict[str, Share]:
        """The links to a recording that have not ended, by their ids."""
        return {k: s for k, s in self._read_shares().items() if s.recording_id == recording_id}

    def end_share(self, recording_id: str, share_id: str) -> None:
        """End a link.

        Raises:
            RecordingError: there is no such link to this recording.
        """
        if share_id not in self.shares_of(recording_id):
            raise _no_share()
        self._change_shares(lambda shares: {k: s for k, s in shares.items() if k != share_id})

    def find_shared(self, share_id: str) -> Path:
        """What a link leads to.

        Raises:
            RecordingError: there is no such link, or it has ended.
        """
        share = self._read_shares().get(share_id)
        # Links end where the server's owner allows none any more.
        if share is None or not self.options.may_share:
            raise _no_share()
        return self.find(share.recording_id)

    def _read_shares(self) -> dict[str, Share]:
        """Those that have not ended."""
        try:
            content = (self._folder / SHARES).read_bytes()
            shares = _SHARES_READER.validate_json(content)
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise _cannot("the links of this server cannot be read", error) from error
        return {k: share for k, share in shares.items() if share.expires_at > self._now()}

    def _change_shares(self, change: Callable[[dict[str, Share]], dict[str, Share]]) -> None:
        before = self._read_shares()
        if change(before) == before:
            return
        with self._changing, self._locked_shares():
            after = change(self._read_shares())
            new = self._folder / f"{SHARES}.new"
            try:
                # Only who may read the folder is to know the ids, also where others made it.
                new.unlink(missing_ok=True)
                new.touch(mode=PRIVATE_MODE)
                new.write_bytes(_SHARES_READER.dump_json(after, indent=1))
                os.replace(new, self._folder / SHARES)
            except OSError as error:
                raise _cannot("the links of this server cannot be written", error) from error

    @contextmanager
    def _locked_shares(self) -> Iterator[None]:
        """Keep other servers from changing them."""
        try:
            with FileLock(self._folder / SHARES_LOCK, SHARES_LOCK_SECONDS, PRIVATE_MODE):
                yield
        except (OSError, Timeout) as error:
            raise _cannot("the links of this server cannot be changed", error) from error

    @property
    def _max_bytes(self) -> float:
        return self.options.max_mb * MB

    def _packed(self, recording_id: str) -> Path:
        return self._folder / f"{recording_id}{SUFFIX}"

    def _live(self, recording_id: str) -> Path:
        return self._folder / f"{recording_id}{SUFFIX}{LIVE_SUFFIX}"


def _new_id() -> str:
    """It cannot be guessed; and no command line takes it for an option."""
    while (new := secrets.token_urlsafe(ID_BYTES)).startswith("-"):
        pass
    return new


def no_such_recording() -> RecordingError:
    """What is told where there is none, or not any more."""
    return RecordingError("there is no such recording, or not any more", "recording_not_found")


def _no_share() -> RecordingError:
    return RecordingError("this link has ended, or never was one", "share_not_found")


def _cannot(what: str, error: Exception) -> RecordingError:
    reason = getattr(error, "strerror", None) or "they are damaged"
    return RecordingError(f"{what}: {reason}", "recording_failed")


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


class Gallery:
    """The recordings that ship with the project, which every client may read.

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
        path = self._folder / GALLERY_LIST
        listed: list[dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        )
        return [entry for entry in listed if self._path(entry["name"]).exists()]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"


def _entry(path: Path, listed: dict[str, Any]) -> dict[str, Any]:
    seconds, emotions = _heard(path, path.stat().st_mtime_ns)
    texts = {name: listed[name] for name in _GALLERY_TEXTS if name in listed}
    return {"name": listed["name"], **texts, "seconds": seconds, "emotions": emotions}


@lru_cache(maxsize=64)
def _heard(path: Path, modified_ns: int) -> tuple[float, list[str]]:
    """How long it is, and the emotions of its replies; `modified_ns` tells versions apart."""
    with SessionFile(path, f"{path.name} of the gallery") as file:
        replies = read_transcript(file).replies
        named = dict.fromkeys(str(reply.emotion) for reply in replies if reply.emotion is not None)
        return round(file.seconds, 3), list(named)
