"""How many people can talk at once: real sockets, recorded voices, random phases."""

import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import BenchError
from bench.quiet import MAX_OTHERS_CORES, CpuTimes
from bench.serving import REPOSITORY, Served, health, server
from bench.talkers import Load, Talked, talk

LIMITS_MS = (100.0, 150.0, 400.0)
"""How late 95 of 100 decisions may be; at the last, the next chunk is there already."""
FIRST_TALKERS = 4
MOST_TALKERS = 128
"""That are tried; more than that, and a machine has more than one kind of limit."""
FINENESS = 8
"""A search ends when it knows a number to this part of it, or to one."""
LEAVING_SECONDS = 30.0
"""Within that, conversations whose clients have gone are over."""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """One load on one server."""

    talked: Talked
    others_cores: float
    """That were kept busy by what has nothing to do with it, on average."""

    @property
    def p95_ms(self) -> float:
        """Lateness of 95 of 100 decisions."""
        return float(np.percentile(self.talked.late_ms, 95))


Try = Callable[[int], LoadFigures]
"""Has so many people talk."""


def report_load(talkers: Sequence[int] | None, seconds: float, against: str | None) -> None:
    """Print how late decisions are by the number of talkers, and how many are served in time.

    Args:
        talkers: numbers that are tried; None searches for those at the limits.
        seconds: of each try.
        against: a commit; each load is then put on its server too, right after ours.

    Raises:
        BenchError: a number is none of people, a server does not start or refuses something, or
            there is no such commit.
    """
    if talkers and min(talkers) < 1:
        raise BenchError("--talkers wants numbers from 1 on")
    most = max(talkers) if talkers else MOST_TALKERS
    options = ("--sessions", str(most), "--no-recordings")
    print(
        f"Lateness of decisions in ms, {seconds:g} s of talk each, embedded, {os.cpu_count()} CPUs "
        f"of {platform.machine()}, talkers beside the server"
    )
    with ExitStack() as stack:
        servers = {"": stack.enter_context(server(*options))}
        if against is not None:
            folder = stack.enter_context(worktree(against))
            servers[against] = stack.enter_context(server(*options, folder=folder))
        show_header(has_label=against is not None)
        tried = {
            label: _Tried(served, seconds, label or ("here" if against else ""))
            for label, served in servers.items()
        }
        if talkers:
            for number in talkers:
                for one in tried.values():
                    one.at(number)
        else:
            for limit_ms in LIMITS_MS:
                for one in tried.values():
                    search(one.at, limit_ms, most)
    for one in tried.values():
        show_answers(one.figures, one.label)
    print()


class _Tried:
    """The loads that one server has carried."""

    def __init__(self, served: Served, seconds: float, label: str) -> None:
        self.label = label
        self.figures: dict[int, LoadFigures] = {}
        self._served = served
        self._seconds = seconds

    def at(self, num_talkers: int) -> LoadFigures:
        """What comes of a number of talkers; each is tried once."""
        if num_talkers not in self.figures:
            figures = measure_load(self._served, Load(num_talkers, self._seconds))
            self.figures[num_talkers] = figures
            show(num_talkers, figures, self.label)
        return self.figures[num_talkers]


def measure_load(served: Served, load: Load) -> LoadFigures:
    """Put a load on a server, from a process beside it.

    Raises:
        BenchError: the server refuses something.
    """
    if (limit := health(served)["session_limit"]) < load.num_talkers:
        raise BenchError(f"the server has {limit} places for {load.num_talkers} talkers")
    _wait_until_empty(served)
    spawn = multiprocessing.get_context("spawn")
    began = CpuTimes.now(served.process_id)
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        talked = process.submit(talk, served, load).result()
    return LoadFigures(talked, began.others_cores(CpuTimes.now(served.process_id)))


def search(tried: Try, limit_ms: float, most: int) -> None:
    """Try numbers of talkers until the largest that is served within a limit is known well."""
    within, beyond = 0, FIRST_TALKERS
    while beyond <= most and is_within(tried(beyond), limit_ms):
        within, beyond = beyond, 2 * beyond
    beyond = min(beyond, most + 1)
    while beyond - within > max(1, within // FINENESS):
        between = (within + beyond) // 2
        if is_within(tried(between), limit_ms):
            within = between
        else:
            beyond = between


def is_within(figures: LoadFigures, limit_ms: float) -> bool:
    """Whether 95 of 100 decisions came in time, and the server kept up."""
    return figures.p95_ms < limit_ms and not figures.talked.falls_behind


def show_header(*, has_label: bool) -> None:
    """Print what the columns are."""
    label = f"{'server':<12}" if has_label else ""
    columns = ("p50", "p95", "p99", "most", "missing", "own p95", "cores", "voice", "others")
    print(
        "missing: chunks without a decision; own p95: how late the talkers themselves were;\n"
        "cores: kept busy by the server; voice: by the neural voice that it starts where one is "
        "installed;\nothers: by what has nothing to do with it"
    )
    print(f"{label}{'talkers':>8}" + "".join(f"{column:>9}" for column in columns))


def show(num_talkers: int, figures: LoadFigures, label: str) -> None:
    """Print one load's figures as they come, and what is wrong with them."""
    talked = figures.talked
    late = "".join(f"{ms:>9.0f}" for ms in np.percentile(talked.late_ms, [50, 95, 99, 100]))
    notes = []
    if talked.falls_behind:
        notes.append("falls behind")
    if figures.others_cores > MAX_OTHERS_CORES:
        notes.append("NOT ALONE on the machine")
    print(
        f"{f'{label[:11]:<12}' if label else ''}{num_talkers:>8}{late}{talked.num_missing:>9}"
        f"{np.percentile(talked.own_ms, 95):>9.0f}{talked.server_cores:>9.2f}"
        f"{talked.voice_cores:>9.2f}{figures.others_cores:>9.2f}  {', '.join(notes)}".rstrip(),
        flush=True,
    )


def show_answers(figures: Mapping[int, LoadFigures], label: str) -> None:
    """Print how many talkers were served in time."""
    for limit_ms in LIMITS_MS:
        within = [number for number in sorted(figures) if is_within(figures[number], limit_ms)]
        beyond = [number for number in sorted(figures) if number not in within]
        most = max(within, default=0)
        first = min((number for number in beyond if number > most), default=None)
        tried = f"{first} are too many" if first else "more were not tried"
        whose = f"{label}: " if label else ""
        print(f"{whose}95 of 100 decisions within {limit_ms:g} ms: {most} talkers; {tried}")


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The repository as it was at `commit`, in a folder of its own, while the block runs.

    Raises:
        BenchError: there is no such commit, or this is no clone.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            added = _git("worktree", "add", "--detach", folder, commit)
        except FileNotFoundError as missing:
            raise BenchError("to serve another commit takes git") from missing
        if added.returncode:
            raise BenchError(f"{commit} cannot be served: {added.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            _git("worktree", "remove", "--force", folder)


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _wait_until_empty(served: Served) -> None:
    deadline = time.monotonic() + LEAVING_SECONDS
    while health(served)["sessions"]:
        if time.monotonic() > deadline:
            raise BenchError("somebody else talks with this server")
        time.sleep(0.1)
