"""The journal of a cluster: a process of its own, and what replicas see of it.

It imports nothing of the model, so that another is there soon after one has died.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from ray.actor import ActorHandle
from ray.exceptions import RayError

from backend.cluster.roster import ReplicaReport, Roster
from backend.journal import Entry, JournalError, JournalRecord, JournalRecords, OwnJournal, Written

JOURNAL_SECONDS = 2.0
"""A journal that takes longer is not there."""

Answer = TypeVar("Answer")


class JournalActor(OwnJournal):
    """The journal's process: it has the records in its memory, and nothing of the model."""

    def __init__(self) -> None:
        super().__init__(JournalRecords(time.monotonic))
        self._roster = Roster(time.monotonic)

    async def tell(self, report: ReplicaReport) -> list[ReplicaReport]:
        """As a roster's."""
        return self._roster.tell(report)

    async def tell_metrics(self, replica_id: str, metrics: str) -> None:
        """As a roster's."""
        self._roster.tell_metrics(replica_id, metrics)

    async def metrics(self) -> dict[str, str]:
        """As a roster's."""
        return self._roster.metrics()

    async def num_written_bytes(self) -> int:
        """Of all entries ever."""
        return self._records.num_written_bytes


class RemoteJournal:
    """The journal as replicas see it."""

    def __init__(self, actor: ActorHandle[JournalActor]) -> None:
        self._actor = actor

    async def keep(self, session_id: str, record: JournalRecord) -> Written:
        """As a journal's."""
        return await _answer(self._actor.keep.remote(session_id, record))

    async def write(self, session_id: str, generation: int, entry: Entry) -> Written:
        """As a journal's."""
        return await _answer(self._actor.write.remote(session_id, generation, entry))

    async def take(
        self, session_id: str, resume_token: str, num_received: int
    ) -> JournalRecord | None:
        """As a journal's."""
        return await _answer(self._actor.take.remote(session_id, resume_token, num_received))

    async def end(self, session_id: str, generation: int) -> None:
        """As a journal's."""
        await _answer(self._actor.end.remote(session_id, generation))

    async def tell(self, report: ReplicaReport) -> list[ReplicaReport]:
        """How it stands with all replicas.

        Raises:
            JournalError: it cannot be reached.
        """
        return await _answer(self._actor.tell.remote(report))

    async def tell_metrics(self, replica_id: str, metrics: str) -> None:
        """What a replica counts, in Prometheus' format.

        Raises:
            JournalError: it cannot be reached.
        """
        await _answer(self._actor.tell_metrics.remote(replica_id, metrics))

    async def metrics(self) -> dict[str, str]:
        """What each replica counts.

        Raises:
            JournalError: it cannot be reached.
        """
        return await _answer(self._actor.metrics.remote())


async def _answer(asked: Awaitable[Answer]) -> Answer:
    try:
        # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the answer.
        async with asyncio.timeout(JOURNAL_SECONDS):
            return await asked
    except (RayError, TimeoutError) as error:
        raise JournalError(f"the journal does not answer ({type(error).__name__})") from error
