"""The page and its model, served: `python app.py`."""

import argparse
import logging
import os
import sys
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from backend.cli.arguments import counted, recordings_folder
from backend.cli.exits import EXIT_INTERRUPTED, leave_at_once
from backend.config import EngineConfig
from backend.model.layout import RELEASED_MODEL
from backend.serving.listening import listen_on, page_address
from backend.serving.share import host_of, new_key, open_link, with_key
from backend.serving.space import surroundings, without_proxies


def serve(parsed: argparse.Namespace) -> int:
    """Serve the live page until interrupted."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("backend").setLevel(logging.INFO)
    here = surroundings(os.environ)
    host = parsed.host or here.host
    # Before torch and Gradio, which take seconds: a port that is taken is said at once.
    listening = listen_on(host, parsed.port)
    with without_proxies(os.environ):
        # It takes torch's place where that looks for GPUs, so it comes before.
        spaces = import_module("spaces") if here.lends_gpu else None
    from backend.engine import Engine
    from backend.engine.capacity import slots_to_measure, too_slow
    from backend.model.checkpoint import load_checkpoint, locate, resolve_device
    from backend.model.hub import TerminalProgress
    from backend.model.hub_store import Report
    from backend.recordings.forks import AlsoCheckpoint
    from backend.recordings.store import StoreOptions
    from backend.speech.neural import is_installed

    with without_proxies(os.environ):
        from backend.serving.server import ServingOptions
        from backend.serving.server import serve as serve_engine
        from backend.serving.zero_gpu import ZeroGpuListener

    is_auto = parsed.sessions is None
    # Where as many are to be let in as are heard in time, at least one has to fit.
    config = EngineConfig(num_slots=parsed.sessions or 1, max_positions=parsed.max_positions)
    also = None
    if parsed.also is not None:
        also = AlsoCheckpoint(
            Path(parsed.also).name,
            lambda: load_checkpoint(
                parsed.also, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
            ),
        )
    records = here.may_record and not parsed.no_recordings
    port = listening.getsockname()[1]
    link = open_link(host, port) if parsed.share else None
    access_key = parsed.access_key or (new_key() if link else None)
    options = ServingOptions(
        access_key=access_key,
        idle_minutes=parsed.idle_minutes,
        trusted_proxies=parsed.trusted_proxies or here.trusted_proxies,
        recordings=(
            StoreOptions(recordings_folder(parsed), parsed.recordings_mb, parsed.sharing)
            if records
            else None
        ),
        own_hosts=(
            *here.own_hosts,
            *(parsed.host_name or ()),
            *([host_of(link)] if link else ()),
        ),
        framed_by=here.framed_by + tuple(parsed.framed_by or ()),
        connections_per_address=parsed.connections_per_address,
        has_neural_voice=is_installed(),
        also=also,
        zero_gpu=ZeroGpuListener(spaces, RELEASED_MODEL, port) if spaces else None,
    )
    is_open = threading.Event()
    with ExitStack() as stack:

        def open_engine(report: Report) -> Engine:
            # A GPU that is lent for single calls is none for conversations.
            device = "cpu" if spaces else parsed.device
            wants_released = here.wants_released_model and resolve_device(device).type == "cuda"
            with closing(TerminalProgress(report)) as progress:
                if spaces:
                    locate(RELEASED_MODEL, progress)
                checkpoint = load_checkpoint(
                    parsed.checkpoint or (RELEASED_MODEL if wants_released else "embedded"),
                    device=device,
                    dtype=parsed.dtype,
                    bits=parsed.bits,
                    engine=config,
                    report=progress,
                )
            slots = slots_to_measure(checkpoint, config) if is_auto else config.num_slots
            engine = stack.enter_context(Engine(checkpoint, replace(config, num_slots=slots)))
            engine.warm_up(measures_sessions=is_auto)
            if is_auto:
                heard = counted(engine.capacity.num_sessions, "conversation")
                print(f"As many as are heard in time here: {heard}")
            if (warning := too_slow(engine.capacity, checkpoint)) is not None:
                print(f"app.py: {warning}", file=sys.stderr)
            return engine

        def say_where() -> None:
            is_open.set()
            print(f"Open {page_address(host, port)} (Ctrl+C stops)", flush=True)
            if link and access_key:
                print(with_key(link, access_key), flush=True)

        try:
            serve_engine(open_engine, listening, options, say_where)
        except KeyboardInterrupt:
            if not is_open.is_set():
                leave_at_once(EXIT_INTERRUPTED)
            raise
    return 0
