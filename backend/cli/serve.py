"""The page and its model, served: `python app.py`."""

import argparse
import logging
import os
import sys
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli import EXIT_INTERRUPTED, counted, leave_at_once
from backend.cli.arguments import recordings_folder
from backend.config import EngineConfig
from backend.errors import SettingsError
from backend.model.layout import EMBEDDED, RELEASED_MODEL
from backend.serving.surroundings import (
    default_recordings_folder,
    host_of,
    listen_on,
    new_key,
    open_link,
    page_address,
    surroundings,
    with_key,
    without_proxies,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from backend.engine import Engine
    from backend.model.hub_store import Report


def _teaching_folder(parsed: argparse.Namespace) -> Path | None:
    """Where takes are kept; None where visitors may not teach.

    Raises:
        SettingsError: what teaches is not installed here.
    """
    folder: Path | None = parsed.teaching
    if folder is None:
        return None
    if find_spec("backend.training") is None:
        raise SettingsError("--teaching needs backend/training, which is not in this image")
    return default_recordings_folder().parent / "teaching" if folder == Path() else folder


def serve(parsed: argparse.Namespace) -> int:
    """Serve the live page until interrupted."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("backend").setLevel(logging.INFO)
    here = surroundings(os.environ)
    host = parsed.host or here.host
    # A port that is taken is said at once.
    listening = listen_on(host, parsed.port)
    with without_proxies(os.environ):
        # It takes torch's place where that looks for GPUs, so it comes before.
        spaces = import_module("spaces") if here.lends_gpu else None
    from backend.recordings.store import StoreOptions
    from backend.serving.process import ServingOptions
    from backend.serving.process import serve as serve_until_interrupted
    from backend.speech.neural import is_installed

    port = listening.getsockname()[1]
    link = open_link(host, port) if parsed.share else None
    access_key = parsed.access_key or (new_key() if link else None)
    recordings = None
    if here.may_record and not parsed.no_recordings:
        recordings = StoreOptions(recordings_folder(parsed), parsed.recordings_mb, parsed.sharing)
    options = ServingOptions(
        access_key=access_key,
        idle_minutes=parsed.idle_minutes,
        trusted_proxies=parsed.trusted_proxies or here.trusted_proxies,
        recordings=recordings,
        own_hosts=(
            *here.own_hosts,
            *(parsed.host_name or ()),
            *([host_of(link)] if link else ()),
        ),
        framed_by=here.framed_by + tuple(parsed.framed_by or ()),
        connections_per_address=parsed.connections_per_address,
        has_neural_voice=is_installed(),
        teaching=_teaching_folder(parsed),
    )
    is_open = threading.Event()
    with ExitStack() as stack:

        def open_app(report: "Report") -> "tuple[Engine, FastAPI]":
            # Torch and Gradio take seconds to import: visitors are told of that, too.
            with without_proxies(os.environ):
                from backend.serving.listeners import ZeroGpuListener
                from backend.serving.server import create_app
            from backend.model.checkpoint import load_checkpoint, locate
            from backend.model.hub import TerminalProgress
            from backend.recordings.forks import AlsoCheckpoint

            # A GPU that is lent for single calls is none for conversations.
            device = "cpu" if spaces else parsed.device
            source = parsed.checkpoint or _default_checkpoint(device, here.wants_released_model)
            also = zero_gpu = None
            if parsed.also is not None:
                also = AlsoCheckpoint(
                    Path(parsed.also).name,
                    lambda: load_checkpoint(
                        parsed.also, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
                    ),
                )
            if spaces:
                zero_gpu = ZeroGpuListener(spaces, RELEASED_MODEL, port)
            with closing(TerminalProgress(report)) as progress:
                if spaces:
                    locate(RELEASED_MODEL, progress)
                engine = _engine(parsed, source, device, progress, stack)
            return engine, create_app(engine, replace(options, also=also, zero_gpu=zero_gpu))

        def say_where() -> None:
            is_open.set()
            print(f"Open {page_address(host, port)} (Ctrl+C stops)", flush=True)
            if link and access_key:
                print(with_key(link, access_key), flush=True)

        try:
            serve_until_interrupted(open_app, listening, options, say_where)
        except KeyboardInterrupt:
            if not is_open.is_set():
                leave_at_once(EXIT_INTERRUPTED)
            raise
    return 0


def _default_checkpoint(device: str, wants_released_model: bool) -> str:
    from backend.model.checkpoint import resolve_device

    is_on_gpu = wants_released_model and resolve_device(device).type == "cuda"
    return RELEASED_MODEL if is_on_gpu else EMBEDDED


def _engine(
    parsed: argparse.Namespace, source: str, device: str, report: "Report", stack: ExitStack
) -> "Engine":
    """An engine that is warm, over a checkpoint that was fetched and loaded; `stack` closes it."""
    from backend.engine import Engine
    from backend.engine.capacity import slots_to_measure, too_slow
    from backend.model.checkpoint import load_checkpoint

    is_auto = parsed.sessions is None
    # Where as many are to be let in as are heard in time, at least one has to fit.
    config = EngineConfig(num_slots=parsed.sessions or 1, max_positions=parsed.max_positions)
    checkpoint = load_checkpoint(
        source, device=device, dtype=parsed.dtype, bits=parsed.bits, engine=config, report=report
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
