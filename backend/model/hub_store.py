"""Where models from the Hub lie: their files, hashes and receipts."""

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants

from backend.errors import CheckpointError
from backend.model.layout import (
    AUDIO_TOWER_CONFIG,
    AUDIO_TOWERS,
    LANGUAGE_MODEL_CONFIG,
    SHARD_INDEX,
    SINGLE_SHARD,
    TOKENIZER,
)

RECEIPT = "download.json"
UNFINISHED = "download-unfinished.json"
"""Lies in a folder from the first byte to the last verified one: no such folder is loaded."""

_CHANGES = "changed"
"""In a receipt: when the files were changed last."""
_LOCK = ".download.lock"
_LOCK_SECONDS = 0.5
_BLOCK_BYTES = 1024 * 1024


class DownloadPhase(StrEnum):
    """What a download is at."""

    CHECKING = "checking"
    """Hashing what is there already."""
    WAITING = "waiting"
    """Another process downloads the same."""
    DOWNLOADING = "downloading"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is."""

    repository: str
    phase: DownloadPhase
    num_bytes: int
    """Done, with what earlier attempts have left."""
    total_bytes: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the Hub describes it."""

    path: str
    """Within the model, with slashes."""
    size: int
    digest: str
    is_large: bool
    """Whether `digest` is the SHA-256 of its content (git LFS), or git's SHA-1 of its blob."""

    @property
    def algorithm(self) -> str:
        """The hash, as `hashlib` calls it."""
        return "sha256" if self.is_large else "sha1"


@dataclass(frozen=True, slots=True)
class HubModel:
    """The files of a model at one commit."""

    repository: str
    revision: str
    """What was asked for: a branch, a tag or a commit."""
    commit: str
    files: tuple[HubFile, ...]


class DownloadStopped(Exception):
    """Another file has failed, or the user has stopped the download."""


class Meter:
    """Adds up what several threads do, and stops them."""

    def __init__(self, model: HubModel, phase: DownloadPhase, report: Report) -> None:
        self._model = model
        self._phase = phase
        self._report = report
        self._total_bytes = sum(file.size for file in model.files)
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def add(self, num_bytes: int) -> None:
        """So many more are done, or, below 0, have to be done again.

        Raises:
            DownloadStopped: the download has ended.
        """
        if self._stopped.is_set():
            raise DownloadStopped
        with self._lock:
            self._num_bytes += num_bytes
            self._report(
                Progress(self._model.repository, self._phase, self._num_bytes, self._total_bytes)
            )

    def stop(self) -> None:
        """Let every thread that adds end."""
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Wait, unless it is stopped meanwhile."""
        self._stopped.wait(seconds)


# Where files go


class Store(ABC):
    """Where a model's files are put."""

    root: Path

    @abstractmethod
    def place(self, file: HubFile) -> Path:
        """Where `file` lies once it is verified."""

    @abstractmethod
    def complete(self, model: HubModel) -> Path | None:
        """The folder to load, if nothing needs to be done any more."""

    @abstractmethod
    def begin(self, model: HubModel) -> None:
        """Files are about to come."""

    @abstractmethod
    def finish(self, model: HubModel) -> Path:
        """All of them lie verified in their places: the folder to load."""

    @contextmanager
    def locked(self, model: HubModel, report: Report) -> Iterator[None]:
        """Keep other processes from fetching the same; waits for one that does.

        Args:
            model: what is fetched.
            report: is told now and then how far the other process is, and may raise.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / _LOCK)
        while not _is_acquired(lock):
            there = sum(self.num_bytes_there(file) for file in model.files)
            total = sum(file.size for file in model.files)
            report(Progress(model.repository, DownloadPhase.WAITING, there, total))
        try:
            yield
        finally:
            lock.release()

    def num_bytes_there(self, file: HubFile) -> int:
        """Of a file that has come as a whole or in part."""
        place = self.place(file)
        return size_of(place) or size_of(part_of(place))


class Cache(Store):
    """The Hub library's cache: files under their hashes, and folders of links to them."""

    def __init__(self, repository: str) -> None:
        self.root = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        self._repository = repository

    @property
    def is_read_only(self) -> bool:
        """Whether what is there has to do."""
        return self.root.is_dir() and not os.access(self.root, os.W_OK)

    def place(self, file: HubFile) -> Path:
        """Among the blobs."""
        return self.root / "blobs" / file.digest

    def receipt(self, commit: str) -> Path:
        """What says that a commit is complete."""
        return self.root / "audio-interaction" / f"{commit}.json"

    def complete(self, model: HubModel) -> Path | None:
        """By its receipt, and the files' sizes and times of change."""
        stated = read_receipt(self.receipt(model.commit))
        folder = self._snapshot(model.commit)
        if stated is None or changed_since(self.receipt(model.commit), folder):
            return None
        # Of what another program fetched, the receipt may name a part only.
        if not set(model.files) <= set(stated.files):
            return None
        if self.commit_of(model.revision) != model.commit and not self.is_read_only:
            # The branch has come to a commit that is there already.
            _write_text(self.root / "refs" / model.revision, model.commit)
        return folder

    def complete_offline(
        self, revision: str, report: Report, *, hashes_again: bool = False
    ) -> Path | None:
        """The folder to load without asking the Hub, if all that is there is as it should be.

        Args:
            revision: a branch, a tag or a commit.
            report: is told how far the hashing is.
            hashes_again: do not believe the receipt's word that the hashes are right.
        """
        commit = self.commit_of(revision)
        folder = self._snapshot(commit)
        if not _holds_a_checkpoint(folder):
            return None
        receipt = read_receipt(self.receipt(commit))
        stated = receipt or self._linked_model(revision, commit)
        if not stated.files or of_another_size(stated, folder) is not None:
            return None
        is_changed = bool(changed_since(self.receipt(commit), folder))
        if receipt is None or hashes_again or is_changed:
            meter = Meter(stated, DownloadPhase.CHECKING, report)
            if not all(is_intact(self.place(file), file, meter) for file in stated.files):
                if not self.is_read_only:
                    self.receipt(commit).unlink(missing_ok=True)
                return None
        # A cache that is mounted read-only is checked every time.
        if (receipt is None or is_changed) and not self.is_read_only:
            write_receipt(self.receipt(commit), stated, folder)
        return folder

    def _linked_model(self, revision: str, commit: str) -> HubModel:
        """What another program fetched: the files' names in the cache are their hashes."""
        files = tuple(_linked_files(self._snapshot(commit)))
        return HubModel(self._repository, revision, commit, files)

    def begin(self, model: HubModel) -> None:
        """Nothing: what is incomplete has no receipt."""

    def finish(self, model: HubModel) -> Path:
        """Link the files into the commit's folder."""
        folder = self._snapshot(model.commit)
        for file in model.files:
            link = folder / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            fresh = link.with_name(f"{link.name}.link")
            fresh.unlink(missing_ok=True)
            try:
                fresh.symlink_to(os.path.relpath(self.place(file), link.parent))
            except OSError:
                # Windows lets only those make symbolic links who develop or administer.
                os.link(self.place(file), fresh)
            fresh.replace(link)
        if model.revision != model.commit:
            _write_text(self.root / "refs" / model.revision, model.commit)
        write_receipt(self.receipt(model.commit), model, folder)
        return folder

    def _snapshot(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def commit_of(self, revision: str) -> str:
        """The commit that a branch or a tag had when it was fetched last."""
        try:
            return (self.root / "refs" / revision).read_text("utf-8").strip()
        except OSError:
            return revision


class Folder(Store):
    """A folder of the user's choice.

    Raises:
        CheckpointError: it holds something else, which would be overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.expanduser()
        if self.root.exists() and not self.root.is_dir():
            raise CheckpointError(f"{folder} is a file; --to needs a folder")
        is_ours = any((self.root / name).exists() for name in (RECEIPT, UNFINISHED))
        holds_others = self.root.is_dir() and {path.name for path in self.root.iterdir()} - {_LOCK}
        if holds_others and not is_ours:
            raise CheckpointError(f"{folder} holds other files; --to needs a folder of its own")

    def place(self, file: HubFile) -> Path:
        """Under its own name."""
        return self.root / file.path

    def complete(self, model: HubModel) -> Path | None:
        """Never: a download into a folder again checks all of it."""
        return None

    def begin(self, model: HubModel) -> None:
        """From here on the folder is not loaded."""
        write_receipt(self.root / UNFINISHED, model, self.root)
        (self.root / RECEIPT).unlink(missing_ok=True)

    def finish(self, model: HubModel) -> Path:
        """From here on it is again."""
        write_receipt(self.root / RECEIPT, model, self.root)
        (self.root / UNFINISHED).unlink()
        return self.root


def cached_models() -> Iterator[HubModel]:
    """The models in the cache that were complete once."""
    for path in sorted(Path(constants.HF_HUB_CACHE).glob("models--*/audio-interaction/*.json")):
        if (model := read_receipt(path)) is not None:
            yield model


# Files and their hashes


def part_of(place: Path) -> Path:
    """Where a file is while it comes."""
    return place.with_name(f"{place.name}.part")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_intact(path: Path, file: HubFile, meter: Meter) -> bool:
    """Whether a file has the size and hash that it should."""
    return size_of(path) == file.size and digest_of(path, file, meter) == file.digest


def digest_of(path: Path, file: HubFile, meter: Meter | None = None) -> str:
    """The hash of a file's content, of the kind that the Hub states for it."""
    digest = hashlib.new(file.algorithm)
    if not file.is_large:
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
            if meter is not None:
                meter.add(len(block))
    return digest.hexdigest()


def _is_acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        return False
    return True


def _holds_a_checkpoint(folder: Path) -> bool:
    """Whether all that loading cannot do without is there: others may have fetched a part only."""
    needed = {LANGUAGE_MODEL_CONFIG, TOKENIZER, AUDIO_TOWER_CONFIG}
    index = folder / SHARD_INDEX
    if index.exists():
        try:
            needed.update(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return False
    else:
        needed.add(SINGLE_SHARD)
    return all((folder / name).is_file() for name in needed) and any(
        (folder / name).is_file() for name in AUDIO_TOWERS
    )


def _linked_files(folder: Path) -> Iterator[HubFile]:
    """The files of a commit's folder in the cache, by the names that its links point to."""
    for link in sorted(folder.rglob("*")):
        if link.is_symlink() and link.exists():
            digest = link.readlink().name
            path = link.relative_to(folder).as_posix()
            yield HubFile(path, link.stat().st_size, digest, is_large=len(digest) == 64)


def of_another_size(model: HubModel, folder: Path) -> str | None:
    """The first file that is missing or has not the size it had; None if there is none."""
    return next(
        (file.path for file in model.files if size_of(folder / file.path) != file.size), None
    )


def write_receipt(path: Path, model: HubModel, folder: Path) -> None:
    """State the files of a folder, and when those that are there were changed last."""
    _write_text(path, json.dumps(asdict(model) | {_CHANGES: _changes(model, folder)}, indent=1))


def changed_since(receipt: Path, folder: Path) -> list[HubFile]:
    """The files that are not as a receipt says, by their sizes and times of change."""
    stated = read_receipt(receipt)
    if stated is None:
        return []
    before = json.loads(receipt.read_text("utf-8")).get(_CHANGES, {})
    now = _changes(stated, folder)
    return [file for file in stated.files if before.get(file.path) != now.get(file.path, [])]


def _changes(model: HubModel, folder: Path) -> dict[str, list[int]]:
    """Size and second of the last change of each file that is there."""
    paths = {file.path: folder / file.path for file in model.files}
    states = {name: path.stat() for name, path in paths.items() if path.is_file()}
    return {name: [state.st_size, int(state.st_mtime)] for name, state in states.items()}


def read_receipt(path: Path) -> HubModel | None:
    """A receipt; None where there is none that can be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
        content.pop(_CHANGES, None)
        files = tuple(HubFile(**stated) for stated in content.pop("files"))
        return HubModel(**content, files=files)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def _write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
