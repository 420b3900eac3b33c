"""Several servers side by side on Ray Serve: `python app.py cluster`."""

import argparse
import errno
import importlib.util
import logging
import os
import random
import signal
import socket
import tempfile
import threading
from pathlib import Path

from backend.cli.arguments import recordings_folder
from backend.config import EngineConfig
from backend.errors import SettingsError
from backend.serving.surroundings import page_address, without_proxies

RAY_SETTINGS = {
    # Its own proxy takes 3 ms of a core for a message, and is full at thirty talkers.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    # With each replica that comes or goes another HAProxy takes over; the one before serves the
    # sockets that it has for so long at most, and then breaks them off, whichever replica they are
    # of. A port is not given again before old ones have forgotten who had it.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
    "RAY_SERVE_PORT_QUARANTINE_S": "150",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "12",
    # A second event loop would hand each message to the first.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # A replica that refuses one connection is dead: no more are led there until it answers again.
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    # 15 by default: whatever else the machine does would come before the replicas.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""For Ray, which reads them when it is imported; what the environment has comes first."""
HAPROXY_FILES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
PROXY_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)


def cluster(parsed: argparse.Namespace) -> int:
    """Serve the live page from several replicas until interrupted.

    Raises:
        SettingsError: Ray is not there, or something is asked for that a cluster has not.
    """
    if parsed.share or parsed.also is not None or parsed.teaching is not None:
        raise SettingsError("--share, --also and --teaching are of one server, not of a cluster")
    if parsed.sessions is None:
        raise SettingsError("replicas of a cluster are alike: give --sessions a number")
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "a cluster needs Ray: `make cluster` installs it, or pip with requirements-cluster.txt"
        )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    # A socket's path has 97 characters at most, of which Ray's name of a node takes 57.
    with tempfile.TemporaryDirectory(prefix="ai-", dir="/tmp") as folder:
        prepare_ray(Path(folder))
        with without_proxies(os.environ):
            from backend.cluster.replica import ReplicaOptions
            from backend.cluster.running import ClusterOptions, running
            from backend.recordings.store import StoreOptions
            from backend.serving.process import ServingOptions

        recordings = None
        if not parsed.no_recordings:
            recordings = StoreOptions(
                recordings_folder(parsed), parsed.recordings_mb, parsed.sharing
            )
        serving = ServingOptions(
            access_key=parsed.access_key,
            idle_minutes=parsed.idle_minutes,
            # What comes, comes from the proxy of the cluster.
            trusted_proxies=parsed.trusted_proxies or "*",
            recordings=recordings,
            own_hosts=tuple(parsed.host_name or ()),
            framed_by=tuple(parsed.framed_by or ()),
            connections_per_address=parsed.connections_per_address,
        )
        options = ClusterOptions(
            replica=ReplicaOptions(
                parsed.checkpoint or "embedded",
                parsed.device,
                parsed.dtype,
                parsed.bits,
                EngineConfig(num_slots=parsed.sessions, max_positions=parsed.max_positions),
                serving,
            ),
            min_replicas=parsed.replicas,
            max_replicas=max(parsed.max_replicas or 0, parsed.replicas),
            host=parsed.host or "127.0.0.1",
            port=parsed.port,
            cpus=parsed.cpus,
            gpus=parsed.gpus,
        )
        with running(options):
            # As containers are stopped: by Ray's own handler the processes beside it would be left.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            print(f"Open {page_address(options.host, options.port)} (Ctrl+C stops)", flush=True)
            threading.Event().wait()
    return 0


def prepare_ray(folder: Path) -> None:
    """Set what Ray goes by; call it before Ray is imported.

    Args:
        folder: for what its proxy writes, which two clusters of a machine must not share.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name, file in HAPROXY_FILES.items():
        os.environ.setdefault(name, str(folder / file))
    for name in PROXY_PORTS:
        os.environ.setdefault(name, str(free_port()))


def free_port() -> int:
    """A port that nothing listens on now, and that no outgoing connection will be given.

    The system hands out ports from 32768 on (Linux; others, later ones), of which Ray takes
    dozens between our look and the moment when its proxy binds this one.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
