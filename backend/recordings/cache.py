"""Use recordings that may be packed or deleted meanwhile, and keep what was made of them."""

import asyncio
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from cachetools import LRUCache

from backend.errors import RecordingError, SessionFileError
from backend.recordings.reader import Checked, SessionFile, size_of
from backend.recordings.store import (
    LEAST_ROOM_BYTES,
    RecordingStore,
    needing_room,
    no_such_recording,
)
from backend.recordings.work import NAME, Artifact, Facts, Order, Wanted
from backend.recordings.workers import Stop, Workers, WorkStoppedError

logger = logging.getLogger(__name__)

MAX_WAITING = 200
MAX_WAITING_EACH = 32
"""From one address; behind a proxy that is not trusted all have the same."""
NUM_AT_ONCE = 2
"""Recordings that are gone through, or of which something is made."""
MAX_FACTS = 4000
"""Recordings of which is known what they are, in about a kilobyte each."""
MAX_PRODUCT_BYTES = 1_000_000_000
"""Of one thing that is made of a recording: nearly three hours as WAV."""
MAX_KEPT_BYTES = 1_000_000_000
"""Of all that was made and is kept, those that are being sent among them."""
SHARE_OF_DISK = 4
"""One in so many free bytes may be used up by one product."""
TIDY_SECONDS = 60.0
"""Between two looks at a folder of recordings."""
MADE = "made"

Find = Callable[[], Path]
"""Where a recording is now; raises RecordingError where there is none any more."""
GiveUp = Callable[[], None]
Use = TypeVar("Use")


def read(find: Find, use: Callable[[SessionFile], Use], checked: Checked | None = None) -> Use:
    """Use a recording in this process, which may be packed or deleted meanwhile.

    Args:
        find: where it is.
        use: what is done with it; once more where it was packed meanwhile.
        checked: what going through the file has found; None goes through it here.

    Raises:
        RecordingError: there is none any more.
        SessionFileError: it is damaged.
    """
    path = find()
    try:
        with SessionFile(path, NAME, checked if path.is_file() else None) as file:
            return use(file)
    except SessionFileError:
        # It goes on as a file when it has been packed.
        if (packed := find()) == path:
            raise
        with SessionFile(packed, NAME) as file:
            return use(file)


@dataclass(frozen=True, slots=True)
class Version:
    """Tells a recording from what it was and will be."""

    path: Path
    modified_ns: int
    num_bytes: int

    @property
    def recording_id(self) -> str:
        """Under one name it lies in a folder, later under another in a file."""
        return self.path.name.partition(".")[0]


def version_of(path: Path) -> Version:
    """Of what lies there now.

    Raises:
        SessionFileError: nothing does.
    """
    try:
        return Version(path, path.stat().st_mtime_ns, size_of(path))
    except OSError as error:
        raise SessionFileError(f"{NAME} cannot be read: {error.strerror}") from error


@dataclass(eq=False, slots=True)
class Kept:
    """What was made of a recording, in a folder of its own."""

    facts: Facts
    folder: Path
    num_bytes: int
    address: str
    """Of whoever asked for it first."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / MADE


@dataclass(eq=False, slots=True)
class Sending:
    """A file that is being sent. It is open: it may be deleted before all of it is sent."""

    facts: Facts
    file: BinaryIO
    recording_id: str
    kept: Kept | None
    give_up: GiveUp | None = field(default=None)
    """Ends it before its end."""


class Turns:
    """Hands out turns in the order in which they were asked for, one at a time to an address."""

    def __init__(self, num_at_once: int) -> None:
        self._free = asyncio.Semaphore(num_at_once)
        self._of_address: dict[str, asyncio.Lock] = {}
        self._num_from: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs.

        Raises:
            RecordingError: too many wait.
        """
        if self._num_from[address] >= MAX_WAITING_EACH or self._num_from.total() >= MAX_WAITING:
            raise RecordingError(
                "the server has much to do with recordings: try again later", "too_many_requests"
            )
        self._num_from[address] += 1
        own = self._of_address.setdefault(address, asyncio.Lock())
        try:
            async with own, self._free:
                yield
        finally:
            self._num_from[address] -= 1
            if not self._num_from[address]:
                del self._num_from[address], self._of_address[address]


class RecordingCache:
    """What a server's recordings are read as, made once while they are asked for.

    It is made by other processes, one thing at a time for each address, and lies in temporary
    files: when they become too many, the address that has most of them loses its oldest, also
    if that is just being sent. Belongs to one event loop.
    """

    def __init__(self, workers: Workers, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._workers = workers
        self._max_kept_bytes = max_kept_bytes
        self._threads = ThreadPoolExecutor(NUM_AT_ONCE, thread_name_prefix="recordings")
        self._turns = Turns(NUM_AT_ONCE)
        self._facts: LRUCache[Version, Facts] = LRUCache(MAX_FACTS)
        self._kept: dict[tuple[Version, Wanted], Kept] = {}
        """The one that was not used for longest is first."""
        self._going: dict[Stop, str] = {}
        self._sending: set[Sending] = set()
        self._removing: set[asyncio.Future[None]] = set()

    # What is asked for

    async def facts(self, find: Find, address: str) -> Facts:
        """What a recording is, for one who asks from `address`.

        Raises:
            RecordingError: there is none any more, or too many wait for theirs.
            SessionFileError: it is damaged.
        """
        version = await asyncio.to_thread(lambda: version_of(find()))
        return self._facts.get(version) or await self._go_through(find, address)

    async def open(self, find: Find, wanted: Wanted, address: str) -> Sending:
        """What is wanted of a recording, to be sent and then closed.

        Raises:
            RecordingError: there is none any more, too many wait, or there is no room.
            SessionFileError: it is damaged.
        """
        if wanted is Artifact.WHOLE and (await asyncio.to_thread(find)).is_file():
            facts = await self.facts(find, address)
            version = await asyncio.to_thread(lambda: version_of(find()))
            return self._send(facts, version, version.path, None)
        if (found := await self._find(find, wanted)) is not None:
            return found
        async with self._turns.turn(address):
            # Another may have asked for the same.
            if (found := await self._find(find, wanted)) is not None:
                return found
            return await self._make(find, wanted, address)

    def close(self, sending: Sending) -> None:
        """It is sent, or given up."""
        self._sending.discard(sending)
        sending.file.close()
        if sending.kept is not None and sending.kept not in self._kept.values():
            # Some systems remove no file that is open.
            self._remove(sending.kept.folder)

    # What ends it

    def forget(self, recording_id: str) -> None:
        """Keep nothing of a recording that was deleted, and do nothing more with it."""
        for version in [v for v in self._facts if v.recording_id == recording_id]:
            del self._facts[version]
        for stop in [stop for stop, going in self._going.items() if going == recording_id]:
            stop.set()
        for key in [key for key in self._kept if key[0].recording_id == recording_id]:
            self._drop(key)
        for sending in list(self._sending):
            if sending.recording_id == recording_id and sending.give_up is not None:
                sending.give_up()

    async def keep_tidy(self, store: RecordingStore) -> None:
        """Look after a folder for as long as the task runs, also for what other servers do there.

        What was cut off is packed once there is room for it, and of what was deleted nothing is
        kept.
        """
        unreadable: set[str] = set()
        while True:
            try:
                await asyncio.to_thread(store.tidy)
                for recording_id in await asyncio.to_thread(store.unpacked):
                    if recording_id not in unreadable:
                        try:
                            await self._pack(store, recording_id)
                        except (SessionFileError, RecordingError, WorkStoppedError) as error:
                            unreadable.add(recording_id)
                            logger.warning("a recording stays a folder: %s", error)
                there = set(await asyncio.to_thread(store.ids))
            except OSError as error:
                logger.warning("the recordings cannot be looked after: %s", error.strerror)
            else:
                versions = {*self._facts, *(version for version, _ in self._kept)}
                ours = {v.recording_id for v in versions if v.path.parent == store.options.folder}
                for recording_id in ours - there:
                    self.forget(recording_id)
            await asyncio.sleep(TIDY_SECONDS)

    async def _pack(self, store: RecordingStore, recording_id: str) -> None:
        stop = Stop()

        def pack(folder: Path, packed: Path) -> None:
            most = 2 * size_of(folder) + LEAST_ROOM_BYTES
            order = Order(path=folder, wanted=Artifact.WHOLE, output=packed, max_bytes=most)
            self._workers.carry_out(order, stop)

        self._going[stop] = recording_id
        try:
            packing = asyncio.get_running_loop().run_in_executor(
                self._threads, store.pack, recording_id, pack
            )
            await asyncio.shield(packing)
        finally:
            del self._going[stop]
            stop.set()

    async def end(self) -> None:
        """The server ends: stop everything, and keep nothing."""
        for stop in self._going:
            stop.set()
        for key in list(self._kept):
            self._drop(key)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.gather(*self._removing)

    # How it is made

    async def _find(self, find: Find, wanted: Wanted) -> Sending | None:
        """What is there already."""
        version = await asyncio.to_thread(lambda: version_of(find()))
        if (kept := self._kept.pop((version, wanted), None)) is None:
            return None
        self._kept[version, wanted] = kept
        return self._send(kept.facts, version, kept.path, kept)

    async def _go_through(self, find: Find, address: str) -> Facts:
        async with self._turns.turn(address):
            version = await asyncio.to_thread(lambda: version_of(find()))
            return self._facts.get(version) or (await self._carry_out(find))[1]

    async def _make(self, find: Find, wanted: Wanted, address: str) -> Sending:
        folder, max_bytes = await asyncio.to_thread(_new_folder)
        try:
            version, facts = await self._carry_out(find, wanted, folder / MADE, max_bytes)
            num_bytes = (folder / MADE).stat().st_size
        except BaseException:
            self._remove(folder)
            raise
        kept = Kept(facts, folder, num_bytes, address)
        self._keep(version, wanted, kept)
        return self._send(facts, version, kept.path, kept)

    async def _carry_out(
        self,
        find: Find,
        wanted: Wanted | None = None,
        output: Path | None = None,
        max_bytes: int = 0,
    ) -> tuple[Version, Facts]:
        """Have a recording gone through, and what is wanted made of it."""
        path = await asyncio.to_thread(find)
        order = Order(path=path, wanted=wanted, output=output, max_bytes=max_bytes)
        try:
            version, facts = await self._order(order)
        except SessionFileError:
            # It goes on as a file when it has been packed.
            if (packed := await asyncio.to_thread(find)) == path:
                raise
            version, facts = await self._order(order.model_copy(update={"path": packed}))
        # Of one that was deleted meanwhile, nothing is kept.
        await asyncio.to_thread(find)
        self._facts[version] = facts
        return version, facts

    async def _order(self, order: Order) -> tuple[Version, Facts]:
        version = await asyncio.to_thread(version_of, order.path)
        known = self._facts.get(version)
        if known is not None and order.path.is_file():
            order = order.model_copy(update={"checked": known.checked})
        stop = Stop()
        self._going[stop] = version.recording_id
        working = asyncio.get_running_loop().run_in_executor(
            self._threads, self._workers.carry_out, order, stop
        )
        try:
            outcome = await asyncio.shield(working)
        except asyncio.CancelledError:
            # Nobody waits for it: it ends, and only then is removed what it has made.
            stop.set()
            await asyncio.wait([working])
            working.exception()
            raise
        except WorkStoppedError as error:
            raise no_such_recording() from error
        finally:
            del self._going[stop]
        facts = outcome.facts or known
        assert facts is not None, "what was not known is told"
        return version, facts

    def _send(self, facts: Facts, version: Version, path: Path, kept: Kept | None) -> Sending:
        with needing_room():
            sending = Sending(facts, path.open("rb"), version.recording_id, kept)
        self._sending.add(sending)
        return sending

    # What is kept

    def _keep(self, version: Version, wanted: Wanted, new: Kept) -> None:
        for key in list(self._kept):
            # Of one that goes on, there is another version now.
            if key[1] is wanted and key[0].recording_id == version.recording_id:
                self._drop(key)
        num_bytes: Counter[str] = Counter()
        for kept in (*self._kept.values(), new):
            num_bytes[kept.address] += kept.num_bytes
        while num_bytes.total() > self._max_kept_bytes and self._kept:
            # The first of those that are equal, which is the oldest.
            key = max(self._kept, key=lambda key: num_bytes[self._kept[key].address])
            num_bytes[self._kept[key].address] -= self._kept[key].num_bytes
            self._drop(key)
        self._kept[version, wanted] = new

    def _drop(self, key: tuple[Version, Wanted]) -> None:
        kept = self._kept.pop(key)
        for sending in list(self._sending):
            if sending.kept is kept and sending.give_up is not None:
                sending.give_up()
        self._remove(kept.folder)

    def _remove(self, folder: Path) -> None:
        """Beside the event loop: a large file takes a while."""
        loop = asyncio.get_running_loop()
        removing = loop.run_in_executor(None, shutil.rmtree, folder, True)
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)


def _new_folder() -> tuple[Path, int]:
    """For something that is made, and how large that may be."""
    with needing_room():
        folder = Path(tempfile.mkdtemp(prefix="audio-interaction-"))
        return folder, min(MAX_PRODUCT_BYTES, shutil.disk_usage(folder).free // SHARE_OF_DISK)
