"""A server as a replica of a Ray Serve deployment. This module and `__main__`'s need Ray."""

import asyncio
import http.client
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from ray import serve
from ray.actor import ActorHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.cluster.journal_actor import JournalActor, RemoteJournal
from backend.cluster.roster import METRICS_SECONDS, REPORT_SECONDS, ReplicaReport, others_than
from backend.config import EngineConfig
from backend.engine import Engine
from backend.journal import Journal, JournalError
from backend.model.checkpoint import load_checkpoint
from backend.serving.monitoring import lateness_fields
from backend.serving.process import SWITCH_SECONDS, ServingOptions, guarded
from backend.serving.server import create_app
from backend.wires.conversations import Conversations

logger = logging.getLogger(__name__)

ASKING_SECONDS = 2.0
DRAINING = b"DRAINING"
"""What a replica that is to end answers Ray's proxy, which asks each for its health."""


class Ingress:
    """What Ray leads to an application: requests, of which it cancels those whose client has gone.

    Here each ends by itself, as on one machine: the client's last message says whether it went on
    purpose, and what it asked for before is done to its end.
    """

    def __init__(self) -> None:
        self._address: tuple[str, int] | None = None
        """Where requests come in; None before the first."""
        self._under_way: set[asyncio.Future[None]] = set()

    def to(self, app: ASGIApp) -> ASGIApp:
        """The application behind it."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            self._address = scope["server"]
            answering = asyncio.ensure_future(app(scope, receive, send))
            self._under_way.add(answering)
            answering.add_done_callback(self._under_way.discard)
            await asyncio.shield(answering)

        return answer

    def is_draining(self) -> bool:
        """Whether Ray lets this replica end, which it tells its proxy and no application."""
        if self._address is None:
            return False
        asking = http.client.HTTPConnection(*self._address, timeout=ASKING_SECONDS)
        try:
            asking.request("GET", "/-/healthz")
            answer = asking.getresponse()
            return answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.read() == DRAINING
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asking.close()


class ReplicaMembership:
    """A replica's part in its cluster.

    Args:
        ingress: of this replica.
        journal: of the cluster, which knows of the replicas too.
        replica_id: of this one.
        session_limit: conversations that it can have.
    """

    def __init__(
        self, ingress: Ingress, journal: RemoteJournal, replica_id: str, session_limit: int
    ) -> None:
        self._ingress = ingress
        self._journal = journal
        self._replica_id = replica_id
        self._session_limit = session_limit
        self._reports: Sequence[ReplicaReport] = ()
        self._is_alone = False
        """Whether the journal was away when it was last asked."""

    @property
    def journal(self) -> Journal:
        """Of all conversations of the cluster."""
        return self._journal

    @property
    def replicas(self) -> Sequence[Mapping[str, Any]]:
        """What `/health` says of each server."""
        return [report.fields() for report in self._reports]

    async def metrics(self, own: Callable[[], str]) -> Mapping[str, str]:
        """What each replica counts, in Prometheus' format; of this one, what `own` returns."""
        try:
            told = await self._journal.metrics()
        except JournalError as error:
            logger.warning("%s: this replica's metrics are told alone", error)
            told = {}
        return told | {self._replica_id: own()}

    async def run(self, conversations: Conversations, metrics: Callable[[], str]) -> None:
        """Tell the others of this server and hear of them, until it is to end; then hand over.

        Args:
            conversations: of this server.
            metrics: what it counts, in Prometheus' format.
        """
        handing_over: asyncio.Task[None] | None = None
        metrics_due = 0.0
        while True:
            if handing_over is None and await asyncio.to_thread(self._ingress.is_draining):
                handing_over = asyncio.create_task(conversations.hand_over())
            now = conversations.time.now()
            try:
                report = self._report(conversations, is_leaving=handing_over is not None)
                self._reports = await self._journal.tell(report)
                if now >= metrics_due:
                    metrics_due = now + METRICS_SECONDS
                    told = await asyncio.to_thread(metrics)
                    await self._journal.tell_metrics(self._replica_id, told)
                self._is_alone = False
            except JournalError as error:
                if not self._is_alone:
                    logger.warning("%s: this replica stands alone", error)
                self._is_alone = True
                self._reports = ()
            now = conversations.time.now()
            conversations.admission.hear_of(others_than(self._replica_id, self._reports, now))
            await asyncio.sleep(REPORT_SECONDS)

    def _report(self, conversations: Conversations, is_leaving: bool) -> ReplicaReport:
        admission, now = conversations.admission, conversations.time.now()
        return ReplicaReport(
            replica_id=self._replica_id,
            pid=os.getpid(),
            num_sessions=admission.num_taken,
            session_limit=self._session_limit,
            num_free=admission.num_free,
            waited_seconds=tuple(now - since for since in admission.waiting_since),
            lateness=lateness_fields(conversations.counts.lateness),
            is_leaving=is_leaving,
        )


@dataclass(frozen=True, slots=True)
class ReplicaOptions:
    """What every replica of a cluster has."""

    checkpoint: str
    device: str
    dtype: str | None
    bits: int
    config: EngineConfig
    serving: ServingOptions


@serve.ingress()
class Replica:
    """Loads the model, and serves the application once it is warm.

    Args:
        options: of all replicas.
        journal: where conversations are kept.
    """

    def __init__(self, options: ReplicaOptions, journal: ActorHandle[JournalActor]) -> None:
        logging.getLogger("backend").setLevel(logging.INFO)
        sys.setswitchinterval(SWITCH_SECONDS)
        checkpoint = load_checkpoint(
            options.checkpoint,
            device=options.device,
            dtype=options.dtype,
            bits=options.bits,
            engine=options.config,
        )
        self._engine = Engine(checkpoint, options.config)
        self._engine.start()
        self._engine.warm_up()
        self._options = options
        self._ingress = Ingress()
        self._membership = ReplicaMembership(
            self._ingress,
            RemoteJournal(journal),
            serve.get_replica_context().replica_id.unique_id,
            self._engine.capacity.num_sessions,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """The application of one machine, as a member of the cluster."""
        serving = self._options.serving
        app = guarded(create_app(self._engine, serving, self._membership), serving)
        return self._ingress.to(app)

    def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises.

        Raises:
            EngineFailedError: no conversation can go on here.
        """
        if self._engine.failed.done():
            raise RuntimeError(f"the engine has failed: {self._engine.failed.result()}")

    def __del__(self) -> None:
        # Where the constructor failed there is none.
        if (engine := getattr(self, "_engine", None)) is not None:
            engine.close()
