"""What a server tells those who watch over it: `/health`, `/ready` and `/metrics`.

Each number has one owner, which counts it; here it is only read, when it is asked for.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.counts import EDGES, Durations, Lateness
from backend.events import TurnStatus
from backend.model.device import device_memory
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from backend.serving.sockets import SocketService

PREFIX = "audio_interaction"
EDGES_PER_BUCKET = 6
"""A bucket of a histogram ends 1.8 times as late as the one before."""

Fields = dict[str, Any]


class Cluster(Protocol):
    """What is told of a cluster, at each of its servers."""

    @property
    def replicas(self) -> Sequence[Mapping[str, Any]]:
        """What `/health` says of each server."""

    async def metrics(self, own: Callable[[], str]) -> Mapping[str, str]:
        """What each server counts, in Prometheus' format; of this one, what `own` returns."""


@dataclass(slots=True)
class Traffic:
    """The content of requests, answers and sockets' messages, in bytes."""

    num_received: int = 0
    num_sent: int = 0


class CountedTraffic:
    """An application whose traffic is counted."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what goes in and out."""

        async def counted_receive() -> Message:
            message = await receive()
            self._traffic.num_received += _num_bytes(message)
            return message

        async def counted_send(message: Message) -> None:
            self._traffic.num_sent += _num_bytes(message)
            await send(message)

        await self._app(scope, counted_receive, counted_send)


def _num_bytes(message: Message) -> int:
    text: str | None = message.get("text")
    if text is not None:
        return len(text) if text.isascii() else len(text.encode())
    return len(message.get("bytes") or message.get("body") or b"")


class Monitoring:
    """The routes.

    Args:
        service: has the engine and the conversations, and knows who may read the metrics.
        options: of the server.
        traffic: what went in and out.
        cluster: that this server is of; None where this server is alone.
    """

    def __init__(
        self,
        service: SocketService,
        options: ServingOptions,
        traffic: Traffic,
        cluster: Cluster | None,
    ) -> None:
        self._service = service
        self._options = options
        self._cluster = cluster
        self._registry = CollectorRegistry()
        self._registry.register(ServerCollector(service, traffic))
        ProcessCollector(registry=self._registry)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""
        app.add_api_route("/health", self._health, methods=["GET"])
        app.add_api_route("/ready", self._ready, methods=["GET"])
        let_in = [Depends(self._service.doorkeeper.with_key)]
        app.add_api_route("/metrics", self._metrics, methods=["GET"], dependencies=let_in)

    async def _health(self, response: Response) -> Fields:
        service, engine = self._service, self._service.engine
        checkpoint, also = engine.checkpoint, self._options.also
        if engine.failed.done():
            response.status_code = 503
        return {
            "status": "failed" if engine.failed.done() else "ok",
            "checkpoint": checkpoint.name,
            "also": None if also is None else also.name,
            "device": str(checkpoint.device),
            "number_format": checkpoint.number_format,
            "sessions": service.admission.num_taken,
            "session_limit": engine.capacity.num_sessions,
            "waiting": service.admission.num_waiting,
            "chunk_ms": round(engine.capacity.chunk_seconds * 1000, 1),
            "too_slow": service.too_slow,
            "lateness": lateness_fields(service.conversations.counts.lateness),
            "requires_key": service.doorkeeper.requires_key,
            "abilities": [asdict(ability) for ability in checkpoint.abilities],
            "may_teach": self._options.teaching is not None,
            "recordings": _recording_fields(self._options.recordings),
            "replicas": list(self._cluster.replicas) if self._cluster else [],
        }

    async def _ready(self, response: Response) -> Fields:
        if self._service.engine.failed.done():
            response.status_code = 503
            return {"status": "failed"}
        if not self._service.admission.limit:
            response.status_code = 503
            return {"status": "leaving"}
        return {"status": "ready"}

    async def _metrics(self, request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        registry: Collector = self._registry
        if self._cluster is not None:
            registry = ReplicasCollector(await self._cluster.metrics(self.exposition))
        # Beside the event loop.
        told = await asyncio.to_thread(encode, registry)
        return Response(told, headers={"Content-Type": media_type})

    def exposition(self) -> str:
        """What this server counts, in Prometheus' format."""
        return generate_latest(self._registry).decode()


class ReplicasCollector(Collector):
    """What all servers of a cluster count, each under a label of its own.

    Args:
        expositions: in Prometheus' format, by replica.
    """

    def __init__(self, expositions: Mapping[str, str]) -> None:
        self._expositions = expositions

    def collect(self) -> Iterable[Metric]:
        """Each metric once, with the samples of all."""
        metrics: dict[str, Metric] = {}
        for replica_id, exposition in self._expositions.items():
            for own in text_string_to_metric_families(exposition):
                metric = Metric(own.name, own.documentation, own.type)
                metrics.setdefault(own.name, metric).samples += [
                    sample._replace(labels={**sample.labels, "replica": replica_id})
                    for sample in own.samples
                ]
        return metrics.values()


def lateness_fields(lateness: Lateness) -> dict[str, float] | None:
    """Of the last minute's decisions, in ms; None where there was none."""
    quantiles = lateness.quantiles(0.5, 0.95)
    if quantiles is None:
        return None
    p50, p95 = (round(seconds * 1000, 1) for seconds in quantiles)
    return {"p50_ms": p50, "p95_ms": p95}


def _recording_fields(options: StoreOptions | None) -> Fields:
    if options is None:
        return {"is_on": False, "may_share": False, "max_mb": 0}
    return {"is_on": True, "may_share": options.may_share, "max_mb": options.max_mb}


class ServerCollector(Collector):
    """What a server counts, as Prometheus wants it; no label comes from a client."""

    def __init__(self, service: SocketService, traffic: Traffic) -> None:
        self._engine = service.engine
        self._admission = service.admission
        self._counts = service.conversations.counts
        self._traffic = traffic

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now."""
        taken, limit = self._admission.num_taken, self._admission.limit
        yield _gauge("conversations", "Conversations that go on.", taken)
        yield _gauge("conversation_limit", "Conversations that go on side by side at most.", limit)
        yield _gauge("free_places", "Conversations that can begin now.", self._admission.num_free)
        yield _gauge("queue_length", "Clients that wait for a place.", self._admission.num_waiting)
        counts = self._counts
        yield _counter("conversations_begun", "Conversations.", counts.num_begun)
        lateness = {"": counts.lateness.total}
        yield _histogram(
            "decision_lateness_seconds", "From a chunk's end to its decision.", lateness
        )
        fallbacks = {"offline": counts.num_fallbacks, "silent": counts.num_voiceless}
        about = "Replies that the chosen voice could not say: another did, or none."
        yield _counter("voice_fallbacks", about, fallbacks, "outcome")
        traffic = {"received": self._traffic.num_received, "sent": self._traffic.num_sent}
        about = "Of requests, answers and sockets' messages."
        yield _counter("content_bytes", about, traffic, "direction")
        yield from self._of_engine()

    def _of_engine(self) -> Iterator[Metric]:
        engine, done = self._engine, self._engine.counts
        yield _gauge("engine_up", "0 once the engine has failed.", not engine.failed.done())
        about = "Time of the engine's steps, by what they are about."
        steps = {str(kind): durations for kind, durations in done.steps.items()}
        yield _histogram("step_seconds", about, steps, "kind")
        yield _counter("chunks", "Chunks of sound that were decided on.", done.num_chunks)
        replies = {str(status): done.num_replies[status] for status in TurnStatus}
        yield _counter("replies", "Replies that have ended.", replies, "status")
        yield _counter("tokens", "Tokens of replies.", done.num_tokens)
        yield _counter("context_rolls", "Contexts that were full and rolled.", done.num_rolls)
        failures = {"model": done.num_failures, "server": self._counts.num_failures}
        about = "Conversations that failed, by what failed."
        yield _counter("conversation_failures", about, failures, "part")
        memory = GaugeMetricFamily(f"{PREFIX}_gpu_memory_bytes", "Of the GPU.", labels=["kind"])
        for kind, num_bytes in device_memory(engine.checkpoint.device).items():
            memory.add_metric([kind], num_bytes)
        yield memory


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", about, value=value)


def _counter(
    name: str, about: str, values: float | Mapping[str, float], label: str | None = None
) -> Metric:
    """One value, or one for each of a label's."""
    if not isinstance(values, Mapping):
        return CounterMetricFamily(f"{PREFIX}_{name}", about, value=values)
    counter = CounterMetricFamily(f"{PREFIX}_{name}", about, labels=[label or ""])
    for labelled, value in values.items():
        counter.add_metric([labelled], value)
    return counter


def _histogram(
    name: str, about: str, values: Mapping[str, Durations], label: str | None = None
) -> Metric:
    labels = [] if label is None else [label]
    histogram = HistogramMetricFamily(f"{PREFIX}_{name}", about, labels=labels)
    for labelled, durations in values.items():
        sums = list(accumulate(durations.counts))
        upper = range(EDGES_PER_BUCKET - 1, len(EDGES) - 1, EDGES_PER_BUCKET)
        buckets = [(f"{EDGES[edge]:.4g}", float(sums[edge])) for edge in upper]
        buckets.append(("+Inf", float(sums[-1])))
        named = [labelled] if labels else []
        histogram.add_metric(named, buckets, durations.sum_seconds)
    return histogram
