"""The HTTP and WebSocket application: the wires, the page's files, samples and what is beside."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from fastapi import FastAPI
from starlette.routing import WebSocketRoute
from starlette.staticfiles import StaticFiles

from backend.admission import Admission
from backend.engine import Engine
from backend.journal import Journal
from backend.recordings.forks import Forks
from backend.recordings.store import Gallery
from backend.recordings.workers import Workers
from backend.serving.access import OwnPagesOnly
from backend.serving.answers import tell_errors
from backend.serving.endpoints import Endpoints, for_gradio
from backend.serving.gradio_calls import GradioCalls
from backend.serving.listeners import EngineListener
from backend.serving.mcp import McpApi
from backend.serving.monitoring import Cluster, CountedTraffic, Monitoring, Traffic
from backend.serving.openai_api import openai_routes
from backend.serving.page_routes import page_routes
from backend.serving.process import ServingOptions
from backend.serving.recordings import RecordingsApi
from backend.serving.sockets import SocketService
from backend.serving.teaching import Teaching, teaching_routes
from backend.serving.uploads import Uploads
from backend.timing import SystemTime
from backend.wires.conversations import Conversations
from backend.wires.registry import WIRES
from webui.gradio_app import gradio_app

ASSETS_FOLDER = Path(__file__).parents[2] / "assets"
SAMPLES_FOLDER = ASSETS_FOLDER / "samples"
GALLERY_FOLDER = ASSETS_FOLDER / "gallery"


class Membership(Cluster, Protocol):
    """A server's part in a cluster."""

    @property
    def journal(self) -> Journal:
        """Of all conversations of the cluster."""

    async def run(self, conversations: Conversations, metrics: Callable[[], str]) -> None:
        """Tell the others of this server and hear of them, until it is to end; then hand over.

        Args:
            conversations: of this server.
            metrics: what it counts, in Prometheus' format.
        """


def create_app(
    engine: Engine,
    options: ServingOptions | None = None,
    membership: Membership | None = None,
) -> FastAPI:
    """The application over a running engine, alone or as a member of a cluster."""
    options = options or ServingOptions()
    service = SocketService(engine, options, membership.journal if membership else None)
    recordings = service.recordings
    workers = Workers()
    uploads = Uploads()
    listener = options.zero_gpu or EngineListener(engine, service.admission)
    endpoints = Endpoints(listener, workers, uploads)
    gradio = gradio_app([for_gradio(endpoints.listen), for_gradio(endpoints.answer)])
    if options.zero_gpu is not None:
        options.zero_gpu.start(gradio.page)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if recordings is not None:
            # Nobody waits for it, not even who ends the server.
            threading.Thread(target=recordings.get_ready, daemon=True).start()
        if service.joe is not None:
            service.joe.get_ready()
        await api.begin()
        async with gradio.app.router.lifespan_context(gradio.app):
            if membership is None:
                yield
            else:
                taking_part = asyncio.create_task(
                    membership.run(service.conversations, monitoring.exposition)
                )
                yield
                taking_part.cancel()
        if service.joe is not None:
            await asyncio.to_thread(service.joe.close)
        await api.end()
        if teaching is not None:
            await teaching.stop()
        await asyncio.to_thread(uploads.close)
        await asyncio.to_thread(workers.close)
        if recordings is not None:
            await recordings.close()

    # Routes for what is needed, and no others: no schema, no second address for anything.
    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    traffic = Traffic()
    app.add_middleware(CountedTraffic, traffic=traffic)
    monitoring = Monitoring(service, options, traffic, membership)
    monitoring.add_to(app)
    for kind in WIRES:
        app.router.routes.append(WebSocketRoute(kind.path, partial(service.serve, kind)))
    app.include_router(
        openai_routes(service.doorkeeper, lambda: engine.checkpoint.name, service.conversations)
    )
    teaching = None if options.teaching is None else Teaching(options.teaching, engine)
    if teaching is not None:
        app.include_router(teaching_routes(service.doorkeeper, teaching))
    forks = Forks(
        lambda: engine.checkpoint,
        lambda: service.admission.num_taken,
        Admission(1, SystemTime()),
        workers,
        options.also,
    )
    gallery = Gallery(GALLERY_FOLDER)
    api = RecordingsApi(service.doorkeeper, gallery, recordings, forks, workers)
    api.add_to(app)
    tell_errors(app)
    samples = OwnPagesOnly(StaticFiles(directory=SAMPLES_FOLDER), options.own_hosts)
    app.mount("/samples", samples, name="samples")
    GradioCalls(gradio, service.doorkeeper, uploads).add_to(app)
    McpApi(service.doorkeeper, endpoints, uploads).add_to(app)
    app.router.routes.extend(page_routes(gradio.app, options.own_hosts))
    return app
