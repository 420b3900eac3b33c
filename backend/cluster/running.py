"""A cluster that runs: Ray, the journal, the replicas and the proxy before them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig, HTTPOptions

from backend.cli.arguments import ACCESS_KEY_VARIABLE
from backend.cluster.journal_actor import JournalActor
from backend.cluster.replica import Replica, ReplicaOptions
from backend.config import Bits, EngineConfig
from backend.model.layout import EMBEDDED
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions

NAME = "audio-interaction"
DEPLOYMENT = "replica"
JOURNAL_NAME = f"{NAME}-journal"
SHARE_OF_PLACES = 0.7
"""Where more of all places are taken, another replica is started."""
SPARE_REQUESTS = 1000
"""Ray's limit of a replica lies so far above ours: at its own, handshakes hang or fail."""
HAND_OVER_SECONDS = 30.0
"""So long a replica that is to end may take for it."""
OBJECT_STORE_BYTES = 100 * 1024 * 1024
"""Nothing goes through it."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """A cluster as it is started on one machine, or from the first of several."""

    replica: ReplicaOptions
    min_replicas: int
    max_replicas: int
    host: str
    port: int
    cpus: float
    """Of each replica; Ray places it where they are free."""
    gpus: float


@contextmanager
def running(options: ClusterOptions) -> Iterator[None]:
    """Serve while the block runs, on the Ray that this machine belongs to or a new one."""
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
        log_to_driver=False,
        **({} if "RAY_ADDRESS" in os.environ else _own_ray(options)),
    )
    try:
        serve.start(http_options=HTTPOptions(host=options.host, port=options.port))
        deploy(options)
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(options: ClusterOptions) -> None:
    """Have all replicas be as these options say, one after the other where some serve already."""
    serve.run(application(options), name=NAME)


class ClusterArguments(BaseModel):
    """What a manifest says of a cluster, as `deploy/ray-service.yaml` does."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = EMBEDDED
    device: str = "auto"
    sessions: int = EngineConfig().num_slots
    """Of each replica."""
    min_replicas: int = 2
    max_replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    recordings: Path | None = None
    """The folder, which all replicas share; None records nothing."""


def build(arguments: ClusterArguments) -> serve.Application:
    """What Ray Serve is to run, by a manifest; the access key is in the environment."""
    recordings = arguments.recordings
    serving = ServingOptions(
        access_key=os.environ.get(ACCESS_KEY_VARIABLE) or None,
        trusted_proxies="*",
        recordings=None if recordings is None else StoreOptions(recordings),
    )
    config = EngineConfig(num_slots=arguments.sessions)
    replica = ReplicaOptions(
        arguments.checkpoint, arguments.device, None, Bits.SIXTEEN, config, serving
    )
    return application(
        ClusterOptions(
            replica,
            arguments.min_replicas,
            arguments.max_replicas,
            host="",
            port=0,
            cpus=arguments.cpus,
            gpus=arguments.gpus,
        )
    )


def num_running() -> int:
    """Replicas that serve."""
    states = serve.status().applications[NAME].deployments[DEPLOYMENT].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")


def num_journal_bytes() -> int:
    """Of all that was ever written to the journal of the cluster; 0 where it is away."""
    try:
        written: int = ray.get(_journal().num_written_bytes.remote())
    except RayError:
        return 0
    return written


def kill_journal() -> None:
    """End the journal's process; Ray starts another."""
    ray.kill(_journal(), no_restart=False)


def _journal() -> ActorHandle[JournalActor]:
    return ray.get_actor(JOURNAL_NAME, namespace=NAME)


def application(options: ClusterOptions) -> serve.Application:
    """What Ray Serve is to run."""
    journal = (
        ray.remote(JournalActor)
        .options(
            name=JOURNAL_NAME,
            namespace=NAME,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=1000,
        )
        .remote()
    )
    num_places = options.replica.config.num_slots
    deployment = serve.deployment(
        Replica,
        name=DEPLOYMENT,
        num_replicas=None,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            initial_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=max(1.0, SHARE_OF_PLACES * num_places),
        ),
        max_ongoing_requests=num_places + SPARE_REQUESTS,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        graceful_shutdown_timeout_s=HAND_OVER_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2.0,
    )
    return deployment.bind(options.replica, journal)


def _own_ray(options: ClusterOptions) -> dict[str, float]:
    num_cpus = max(os.cpu_count() or 1, round(options.cpus * options.max_replicas + 1))
    return {"num_cpus": num_cpus, "object_store_memory": OBJECT_STORE_BYTES}
