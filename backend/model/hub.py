"""Models from the Hugging Face Hub: fetched, resumed and verified before anything loads them.

They lie in the cache of the Hub's own library (`HF_HOME`), in its layout, which is described at
https://huggingface.co/docs/huggingface_hub/guides/manage-cache: other programs find them there,
and what those have fetched is not fetched again. The library's own download would not do: it
checks sizes only, and forgets what it had of a file when it is interrupted.

A model is complete when its receipt is written, which happens last: it names every file with the
size and hash that were found. From then on only sizes and times of change are looked at, as reading
gigabytes again at every start would take longer than loading them.
"""

import errno
import shlex
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    get_token,
    hf_hub_url,
    hf_raise_for_status,
    is_offline_mode,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from backend.errors import CheckpointError
from backend.model.hub_store import (
    RECEIPT,
    UNFINISHED,
    Cache,
    DownloadPhase,
    Folder,
    HubFile,
    HubModel,
    Meter,
    Progress,
    Report,
    Store,
    changed_since,
    digest_of,
    is_intact,
    of_another_size,
    part_of,
    read_receipt,
    size_of,
    write_receipt,
)
from backend.model.layout import (
    AUDIO_TOWERS,
    DEFAULT_REVISION,
    HUB_FILES,
    LANGUAGE_MODEL_CONFIG,
)

_LOOK_UP_SECONDS = 10.0
_NUM_CONNECTIONS = 4
_RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits after attempts that brought nothing; one that brought something starts over."""
_WAIT_SECONDS = 0.5
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
_MEGABYTE = 1_000_000


class HubUnreachableError(CheckpointError):
    """Nothing can be learnt from the Hub now; what is cached may still do."""


# What the rest of the program calls


def obtain(repository: str, revision: str = DEFAULT_REVISION, report: Report | None = None) -> Path:
    """The folder in the cache with a model's files, fetched and verified as far as is needed.

    Args:
        repository: a Hub id, such as `zhifeixie/AudioInteraction`.
        revision: a branch, a tag or a commit.
        report: is told how it goes; None draws a bar on a terminal.

    Raises:
        CheckpointError: it cannot be had.
    """
    cache = Cache(repository)
    try:
        model = look_up(repository, revision)
    except HubUnreachableError as error:
        return _earlier(cache, revision, report, error)
    if (folder := cache.complete(model)) is not None:
        return folder
    with _shown(report) as shown:
        if cache.is_read_only:
            folder = cache.complete_offline(model.commit, shown)
            if folder is not None:
                return folder
        return _fetch(model, cache, shown)


def download_to_folder(
    repository: str, revision: str, folder: Path, report: Report | None = None
) -> Path:
    """Fetch and verify a model into a folder of its own; what is there already is checked again.

    Raises:
        CheckpointError: it cannot be had, or the folder holds something else.
    """
    target = Folder(folder)
    model = look_up(repository, revision)
    with _shown(report) as shown:
        return _fetch(model, target, shown)


def verify(repository: str, revision: str = DEFAULT_REVISION, report: Report | None = None) -> Path:
    """As `obtain`, but everything is hashed again, and mended where it is not as it should be."""
    cache = Cache(repository)
    try:
        model = look_up(repository, revision)
    except HubUnreachableError as error:
        return _earlier(cache, revision, report, error, hashes_again=True)
    try:
        cache.receipt(model.commit).unlink(missing_ok=True)
    except OSError as error:
        raise _in_words(error, repository, revision) from error
    with _shown(report) as shown:
        return _fetch(model, cache, shown)


def _earlier(
    cache: Cache,
    revision: str,
    report: Report | None,
    error: HubUnreachableError,
    *,
    hashes_again: bool = False,
) -> Path:
    """The folder of what was downloaded earlier.

    Raises:
        HubUnreachableError: `error`, as that is not complete.
    """
    with _shown(report) as shown:
        folder = cache.complete_offline(revision, shown, hashes_again=hashes_again)
    if folder is None:
        raise error
    if not is_offline_mode():
        print(f"{error}; what was downloaded earlier is used", file=sys.stderr, flush=True)
    return folder


def require_complete(folder: Path, report: Report | None = None) -> None:
    """Refuse a folder into which a download has not ended, or that is no longer as it was then.

    Args:
        folder: any; one that nothing was downloaded into is none of those.
        report: is told how the hashing goes of what was changed; None draws a bar on a terminal.

    Raises:
        CheckpointError: it is one.
    """
    if (unfinished := read_receipt(folder / UNFINISHED)) is not None:
        raise CheckpointError(
            f"the download into {folder} has not ended; this goes on with it: "
            f"{_again(unfinished, folder)}"
        )
    stated = read_receipt(folder / RECEIPT)
    if stated is None or not (changed := changed_since(folder / RECEIPT, folder)):
        return
    wrong = of_another_size(stated, folder)
    if wrong is None:
        with _shown(report) as shown:
            checking = Meter(replace(stated, files=tuple(changed)), DownloadPhase.CHECKING, shown)
            damaged = (f.path for f in changed if not is_intact(folder / f.path, f, checking))
            wrong = next(damaged, None)
    if wrong is not None:
        raise CheckpointError(
            f"{folder / wrong} is not as it was downloaded; this mends it: "
            f"{_again(stated, folder)} (if it was changed on purpose, delete {folder / RECEIPT})"
        )
    # They were only copied. Where that cannot be written down, they are hashed the next time too.
    with suppress(OSError):
        write_receipt(folder / RECEIPT, stated, folder)


def _again(model: HubModel, folder: Path) -> str:
    """The command that fetches the same into the same folder."""
    revision = "" if model.revision == DEFAULT_REVISION else f" --revision {model.revision}"
    python = shlex.quote(sys.executable)
    return f"{python} app.py download {model.repository}{revision} --to {shlex.quote(str(folder))}"


def look_up(repository: str, revision: str) -> HubModel:
    """Ask the Hub which files a model has.

    Raises:
        HubUnreachableError: there is no answer.
        CheckpointError: there is no such model or revision, it may not be read, or it is no
            checkpoint.
    """
    try:
        described = HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=_LOOK_UP_SECONDS
        )
    except (OSError, httpx2.HTTPError, HFValidationError) as error:
        raise _in_words(error, repository, revision) from error
    files = tuple(
        _described_file(stated) for stated in described.siblings or [] if _is_ours(stated)
    )
    names = {file.path for file in files}
    for missing in {LANGUAGE_MODEL_CONFIG} - names:
        raise CheckpointError(
            f"{repository} is no Audio-Interaction checkpoint: no {missing} in it"
        )
    if not names & set(AUDIO_TOWERS):
        raise CheckpointError(
            f"{repository} is no Audio-Interaction checkpoint: no {AUDIO_TOWERS[0]} in it"
        )
    return HubModel(repository, revision, str(described.sha), files)


# Fetching


def _fetch(model: HubModel, store: Store, report: Report) -> Path:
    try:
        with store.locked(model, report):
            folder = store.complete(model)
            if folder is not None:
                return folder
            store.begin(model)
            there = tuple(f for f in model.files if size_of(store.place(f)) == f.size)
            checking = Meter(replace(model, files=there), DownloadPhase.CHECKING, report)
            missing = [
                file for file in model.files if not is_intact(store.place(file), file, checking)
            ]
            _require_room(missing, store)
            _receive_all(model, missing, store, report)
            return store.finish(model)
    except (OSError, httpx2.HTTPError) as error:
        raise _in_words(error, model.repository, model.revision) from error


def _receive_all(model: HubModel, missing: list[HubFile], store: Store, report: Report) -> None:
    meter = Meter(model, DownloadPhase.DOWNLOADING, report)
    there = sum(file.size for file in model.files) - sum(file.size for file in missing)
    meter.add(there + sum(size_of(part_of(store.place(file))) for file in missing))
    with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
        # The largest first: they take longest, whatever runs beside them.
        order = sorted(missing, key=lambda file: -file.size)
        try:
            waiting = {pool.submit(_receive, model, file, store, meter) for file in order}
            while waiting:
                # Without a limit it would not hear of a Ctrl+C that reached another thread.
                ended, waiting = wait(waiting, _WAIT_SECONDS, FIRST_EXCEPTION)
                for each in ended:
                    each.result()
        except BaseException:
            # Also Ctrl+C: what has come so far stays.
            meter.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _receive(model: HubModel, file: HubFile, store: Store, meter: "Meter") -> None:
    """Fetch a file into its place, verified; a copy that is not what it should be, once again.

    Raises:
        CheckpointError: the second copy was no better.
    """
    place = store.place(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(place)
    for _ in range(2):
        _receive_part(model, file, part, meter)
        found = digest_of(part, file)
        if found == file.digest:
            part.replace(place)
            return
        meter.add(-part.stat().st_size)
        part.unlink()
    raise CheckpointError(
        f"{file.path} of {model.repository} arrives damaged from {constants.ENDPOINT}: its "
        f"{file.algorithm} is {found}, not {file.digest}; try again later, or from another mirror "
        "(HF_ENDPOINT)"
    )


def _receive_part(model: HubModel, file: HubFile, part: Path, meter: "Meter") -> None:
    """Go on with a file where an earlier attempt ended, until it has its size."""
    url = hf_hub_url(model.repository, file.path, revision=model.commit)
    waits = iter(_RETRY_SECONDS)
    with part.open("ab") as output:
        while (begin := output.tell()) < file.size:
            try:
                _receive_rest(url, file, output, meter)
            except (httpx2.TransportError, HfHubHTTPError) as error:
                if not _is_passing(error):
                    raise
                if output.tell() > begin:
                    waits = iter(_RETRY_SECONDS)
                if (seconds := next(waits, None)) is None:
                    raise
                meter.pause(seconds)


def _receive_rest(url: str, file: HubFile, output: IO[bytes], meter: "Meter") -> None:
    begin = output.tell()
    # Compressed on the way, sizes and ranges would be those of something else.
    headers = {"Accept-Encoding": "identity"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        if begin and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            # It knows no ranges and sends everything.
            output.truncate(0)
            meter.add(-begin)
        for block in response.iter_raw():
            output.write(block)
            meter.add(len(block))
            if output.tell() > file.size:
                # More than the Hub says: the hash will not be right either.
                return


class TerminalProgress:
    """A bar on a terminal; elsewhere, as in a log, a line for every tenth.

    Args:
        then: is told as well.
    """

    def __init__(self, then: Report | None = None) -> None:
        self._then = then
        self._bar: tqdm | None = None
        self._drawn: DownloadPhase | None = None
        self._shown: tuple[DownloadPhase, int] | None = None

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        self._show(progress)
        if self._then is not None:
            self._then(progress)

    def close(self) -> None:
        """End the bar's line, so that what is said next has one of its own."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            self._draw(progress)
            return
        shown = (progress.phase, progress.num_bytes * 10 // max(progress.total_bytes, 1))
        if shown != self._shown:
            self._shown = shown
            megabytes, total = (
                count // _MEGABYTE for count in (progress.num_bytes, progress.total_bytes)
            )
            line = f"{_in_progress(progress)}: {megabytes} of {total} MB"
            print(line, file=sys.stderr, flush=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None or self._drawn is not progress.phase:
            self.close()
            self._drawn = progress.phase
            self._bar = tqdm(
                desc=_in_progress(progress),
                total=progress.total_bytes,
                initial=progress.num_bytes,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
            )
        self._bar.update(progress.num_bytes - self._bar.n)


def _in_progress(progress: Progress) -> str:
    match progress.phase:
        case DownloadPhase.CHECKING | DownloadPhase.DOWNLOADING as phase:
            return f"{phase} {progress.repository}"
        case DownloadPhase.WAITING:
            return f"another process downloads {progress.repository}"


@contextmanager
def _shown(report: Report | None) -> Iterator[Report]:
    """What is told how it goes: `report`, or a bar that ends with the block."""
    if report is not None:
        yield report
        return
    with closing(TerminalProgress()) as progress:
        yield progress


# Particulars


def _is_ours(stated: Any) -> bool:
    path = PurePosixPath(stated.rfilename)
    return ".." not in path.parts and any(
        fnmatchcase(stated.rfilename, pattern) and len(path.parts) == pattern.count("/") + 1
        for pattern in HUB_FILES
    )


def _described_file(stated: Any) -> HubFile:
    if stated.lfs is not None:
        return HubFile(stated.rfilename, stated.lfs.size, stated.lfs.sha256, is_large=True)
    return HubFile(stated.rfilename, stated.size, stated.blob_id, is_large=False)


def _require_room(missing: list[HubFile], store: Store) -> None:
    wanted = sum(file.size - size_of(part_of(store.place(file))) for file in missing)
    free = shutil.disk_usage(store.root).free
    if wanted > free:
        raise CheckpointError(
            f"{wanted / _MEGABYTE:.0f} MB have to be downloaded and {store.root} has room for "
            f"{free / _MEGABYTE:.0f} MB; make room, or choose another disk with HF_HOME or --to"
        )


# What went wrong, in words


def _is_passing(error: Exception) -> bool:
    """Whether it may go better in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING_STATUSES
    return True


def _in_words(error: Exception, repository: str, revision: str) -> CheckpointError:
    endpoint = constants.ENDPOINT
    match error:
        case OfflineModeIsEnabled():
            return HubUnreachableError(
                f"{repository} is not in the cache as a whole, and HF_HUB_OFFLINE forbids to "
                "download it; unset it, or use another model"
            )
        case GatedRepoError():
            return CheckpointError(
                f"{repository} is open only to those who accept its terms: do so at "
                f"{endpoint}/{repository}, then say who you are with `hf auth login` or HF_TOKEN"
            )
        case RevisionNotFoundError():
            return CheckpointError(f"{repository} has no revision {revision!r}")
        case RepositoryNotFoundError():
            return CheckpointError(
                f"there is no model {repository} at {endpoint}, or it is private: check its name, "
                "or say who you are with `hf auth login` or HF_TOKEN"
            )
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return CheckpointError(
                f"{endpoint} does not let you read {repository}: check HF_TOKEN, or log in with "
                "`hf auth login`"
            )
        case HfHubHTTPError():
            status = error.response.status_code
            return HubUnreachableError(
                f"{endpoint} answers {status} for {repository}; try again later"
            )
        case httpx2.TimeoutException():
            return HubUnreachableError(
                f"{endpoint} does not answer; check the network, or use a mirror (HF_ENDPOINT)"
            )
        case httpx2.HTTPError():
            reason = _first_line(error) or "the connection broke off"
            return HubUnreachableError(
                f"{endpoint} cannot be reached ({reason}); check the network and HTTPS_PROXY, or "
                "use a mirror (HF_ENDPOINT)"
            )
        case HFValidationError():
            return CheckpointError(f"{repository!r} is no Hub id: {_first_line(error)}")
        case OSError(errno=errno.ENOSPC):
            return CheckpointError(
                f"the disk is full; make room and run it again, or choose another with HF_HOME or "
                f"--to: {error}"
            )
        case PermissionError() | OSError(errno=errno.EROFS):
            return CheckpointError(
                f"{error.filename} cannot be written; choose another folder with HF_HOME or --to"
            )
    return CheckpointError(f"{repository} cannot be downloaded: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
