"""Which servers of a cluster there are, and how it stands with each, by its own word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backend.admission import Others

REPORT_SECONDS = 0.5
"""So often a server tells how it stands."""
METRICS_SECONDS = 5.0
"""So often it tells what it counts."""
GONE_SECONDS = 3.0
"""A server that has told nothing for so long is no more."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """How it stands with one server."""

    replica_id: str
    pid: int
    num_sessions: int
    session_limit: int
    num_free: int
    waited_seconds: tuple[float, ...]
    """Of each in its line."""
    lateness: dict[str, float] | None
    is_leaving: bool
    """Whether it lets nobody in any more."""

    def fields(self) -> dict[str, Any]:
        """What `/health` says of it."""
        return {
            "pid": self.pid,
            "sessions": self.num_sessions,
            "session_limit": self.session_limit,
            "waiting": len(self.waited_seconds),
            "lateness": self.lateness,
            "leaving": self.is_leaving,
        }


class Roster:
    """The newest report of each server.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, ReplicaReport]] = {}
        self._metrics: dict[str, str] = {}

    def tell(self, report: ReplicaReport) -> list[ReplicaReport]:
        """A server tells how it stands; returns how it stands with all."""
        now = self._clock()
        self._reports[report.replica_id] = (now, report)
        self._reports = {
            replica_id: (told_at, told)
            for replica_id, (told_at, told) in self._reports.items()
            if now - told_at < GONE_SECONDS
        }
        return [told for _, told in self._reports.values()]

    def tell_metrics(self, replica_id: str, metrics: str) -> None:
        """A server tells what it counts, in Prometheus' format."""
        self._metrics[replica_id] = metrics

    def metrics(self) -> dict[str, str]:
        """What each server counts."""
        self._metrics = {
            replica_id: metrics
            for replica_id, metrics in self._metrics.items()
            if replica_id in self._reports
        }
        return self._metrics


def others_than(replica_id: str, reports: Sequence[ReplicaReport], now: float) -> Others:
    """What one server needs to know of the others, at `now` of its clock."""
    others = [report for report in reports if report.replica_id != replica_id]
    return Others(
        num_free=sum(report.num_free for report in others),
        waiting_since=tuple(
            now - waited_seconds for report in others for waited_seconds in report.waited_seconds
        ),
    )
