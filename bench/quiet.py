"""Whether anything else keeps the cores busy, which would make a measurement worthless."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psutil

from bench.errors import BenchError

LOOK_SECONDS = 1.0
MAX_OTHERS_CORES = 0.25
"""A desktop that is left alone takes less."""
NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of work since the machine, or a process, started."""

    at: float
    busy: float
    """Of all cores."""
    ours: float
    """Of this process, those that it has ended, and those named to `now`."""

    @classmethod
    def now(cls, *process_ids: int) -> Self:
        """At this moment; counts the processes `process_ids` as ours, and what they started."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # Time of guests is in that of users already.
        guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        own = psutil.Process().cpu_times()
        ours = own.user + own.system + own.children_user + own.children_system
        ours += sum(sum(worked_seconds(process_id)) for process_id in process_ids)
        return cls(time.perf_counter(), sum(times) - guests - idle, ours)

    def others_cores(self, until: Self) -> float:
        """How many cores others have kept busy from here to `until`, on average."""
        others = (until.busy - self.busy) - (until.ours - self.ours)
        return max(0.0, others / (until.at - self.at))


def worked_seconds(process_id: int) -> tuple[float, float]:
    """CPU seconds of a process, and of those that it has started."""
    process = psutil.Process(process_id)
    times = process.cpu_times()
    of_started = times.children_user + times.children_system
    for started in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            of_started += sum(started.cpu_times()[:4])
    return float(times.user + times.system), float(of_started)


def require_quiet(look_seconds: float = LOOK_SECONDS) -> None:
    """Look for `look_seconds` whether something else keeps the cores busy.

    Raises:
        BenchError: it does; says what, as far as this user may know.
    """
    before, began = _by_process(), CpuTimes.now()
    time.sleep(look_seconds)
    others = began.others_cores(CpuTimes.now())
    if others <= MAX_OTHERS_CORES:
        return
    after = _by_process()
    used = {process: after[process] - before.get(process, 0.0) for process in after}
    busiest = sorted(used, key=lambda process: used[process], reverse=True)[:NUM_NAMED]
    named = ", ".join(
        f"{name} ({process_id}) {used[process_id, name] / look_seconds:.1f}"
        for process_id, name in busiest
    )
    raise BenchError(
        f"something else keeps {others:.1f} of {psutil.cpu_count()} cores busy, which would be "
        f"measured too: {named}. Try again when that is done, or go on with --busy-machine"
    )


def _by_process() -> dict[tuple[int, str], float]:
    """CPU seconds of all other processes that this user may look at."""
    own = psutil.Process().pid
    seconds = {}
    for process in psutil.process_iter(["cpu_times", "name"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid != own:
            seconds[process.pid, str(process.info["name"])] = float(times.user + times.system)
    return seconds
