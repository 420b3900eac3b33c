"""The live page: one Gradio panel whose microphone is a WebSocket away from the model."""

import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.data_classes import FileData
from gradio.events import api
from gradio.route_utils import BUILD_PATH_LIB, STATIC_PATH_LIB
from starlette.middleware.cors import CORSMiddleware

from webui.bundling import STATIC_FOLDER, bundled

RENDERED = ("/", "/theme.css")
"""What Gradio itself answers for the page."""
FILES = {
    "/favicon.ico": STATIC_FOLDER / "favicon.png",
    "/manifest.json": STATIC_FOLDER / "manifest.json",
    "/static/js/iframeResizer.contentWindow.min.js": Path(
        STATIC_PATH_LIB, "js", "iframeResizer.contentWindow.min.js"
    ),
}
"""Files that its page names."""
ASSETS_FOLDER = Path(BUILD_PATH_LIB)
"""Its scripts and styles, below `/assets`: their names change with their content."""

MAX_QUEUED = 20
"""Calls of endpoints that wait; further ones are refused."""
MAX_SESSIONS = 100
"""More than can wait at once."""

PREVIEW = STATIC_FOLDER / "preview.jpg"
"""Taken by `make screenshots`."""

_TITLE = "Audio-Interaction Live"
_DESCRIPTION = (
    "Talk with a voice model that listens all the time and decides for itself when to reply."
)
# A function body, not a module; the address is relative so that proxies with a prefix work.
_START = "import(new URL('live/main.js', document.baseURI).href).then((m) => m.mount(element));"
_IMPORT = re.compile(r"""^(?:import|export)\b[^;]*?\bfrom '(\.[^']+\.js)'""", re.MULTILINE)
# How Vite, which Gradio is built with, writes what a part needs: as numbers in a list of files.
_BEGINNING = re.compile(r"""\./assets/(index-[^"]+\.js)""")
_LISTED = re.compile(r"m\.f=(\[[^\]]*\])")
_NEEDED = r"""[^`]*`\)[^`]*?,__vite__mapDeps\(\[([\d,]+)\]\)"""
_PARTS = {
    r"import\(`\./Index-": "index-",
    r"import\(`\./Blocks-": "Index-",
    r"\bcolumn:\{component:\(\)=>\w+\(\(\)=>import\(`": "core-",
    r"\bhtml:\{.{0,400}?component:\(\)=>\w+\(\(\)=>import\(`": "core-",
}
"""The parts that show the page, and in which of its files each is asked for."""
# The panel is the whole page: Gradio's frame around it goes.
_FRAME_CSS = """
.gradio-container .main.fillable { max-width: none; padding: 0; }
#live, #live .html-container { padding: 0; overflow: visible; }
.gradio-container footer { display: none; }
"""


Endpoint = Callable[..., Awaitable[Any]]
"""Its name, annotations and docstring say what clients are told of it."""


@dataclass(frozen=True, slots=True)
class GradioApp:
    """Gradio's application, whole, and its page."""

    app: FastAPI
    page: "LivePage"

    def has_session(self, session_hash: str) -> bool:
        """Whether that client waits for something."""
        return session_hash in self.page._queue.pending_messages_per_session

    def num_calls(self, session_hash: str) -> int:
        """Of that client, which it has not yet been told of."""
        return len(self.page._queue.pending_event_ids_session.get(session_hash, ()))

    def session_of(self, event_id: str) -> str | None:
        """Whose call that is, until it was told what came of it."""
        told = self.page._queue.pending_event_ids_session.items()
        return next((session for session, ids in told if event_id in ids), None)

    @property
    def names(self) -> set[str]:
        """Those of the endpoints."""
        return {str(function.api_name) for function in self.page.fns.values()}


class LivePanel(gr.HTML):
    """The conversation: template, style and code lie in `static/`."""

    def __init__(self) -> None:
        super().__init__(
            html_template=_read("live.html"),
            css_template=_read("page.css") + _read("live.css"),
            js_on_load=_START,
            apply_default_css=False,
            elem_id="live",
        )


class Sessions(dict[str, Any]):
    """What clients of the queue are yet to be told, of few that never came back for it.

    Gradio's own lets go of the oldest, whose call may still go on: that then fails for good.
    """

    def __init__(self, queue: Any) -> None:
        super().__init__()
        self._queue = queue

    def __setitem__(self, session_hash: str, messages: Any) -> None:
        if session_hash not in self and len(self) >= MAX_SESSIONS:
            busy = {event.session_hash for event in self._queue.event_ids_to_events.values()}
            oldest = next(session for session in self if session not in busy)
            del self[oldest]
            self._queue.pending_event_ids_session.pop(oldest, None)
        super().__setitem__(session_hash, messages)


class LivePage(gr.Blocks):
    """The page, and beside it endpoints for programs, which take and give plain values.

    What Gradio does with files stays out: of a path in what a client sends, Gradio would read the
    server's disk, and of an address it would fetch what is there.
    """

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """What a client sent, as it is; the last arguments may be left out."""
        if len(inputs) > len(block_fn.inputs):
            raise gr.Error(f"{block_fn.name} takes fewer arguments", print_exception=False)
        return inputs + [block.value for block in block_fn.inputs[len(inputs) :]]

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """What an endpoint gave, as JSON has it."""
        values = predictions if len(block_fn.outputs) > 1 else [predictions]
        return [each.model_dump() if isinstance(each, FileData) else each for each in values]


def build_page(endpoints: Iterable[Endpoint] = ()) -> LivePage:
    """The page as Gradio blocks, with an endpoint for each of these functions, by its name."""
    page = LivePage(title=_TITLE, analytics_enabled=False, fill_width=True)
    with page:
        LivePanel()
        for endpoint in endpoints:
            api(endpoint, api_name=endpoint.__name__)
    page.queue(max_size=MAX_QUEUED)
    queue: Any = page._queue
    queue.pending_messages_per_session = Sessions(queue)
    # For pages that are not served, Gradio would analyse the calls.
    queue.ANALYTICS_MAX_EVENTS = MAX_SESSIONS
    queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    page.state_session_capacity = MAX_SESSIONS
    return page


def gradio_app(endpoints: Iterable[Endpoint] = ()) -> GradioApp:
    """Gradio's application with the page, at `/`.

    It has dozens of other routes (uploads, icons of any size, proxies), for anybody: serve only
    those of them that the page and its endpoints need.
    """
    app = FastAPI()
    page = build_page(endpoints)
    # With one of the application's own, which allows nobody, Gradio's lets no other origin in.
    app.add_middleware(CORSMiddleware)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        ssr_mode=False,
        theme=_theme(),
        css=_FRAME_CSS,
        # With it Gradio shows its page about the endpoints at `?view=api`; the footer is hidden.
        footer_links=["api"],
        run_history=False,
        mcp_server=False,
    )
    return GradioApp(mounted, page)


def preloads() -> Iterator[str]:
    """Links for the page's head: all that it will ask for comes while Gradio gets ready.

    Modules name each other, so that a browser would find them one after the other, each a journey
    of the line later. Gradio writes what it is told of a head into it with a script: too late.
    """
    for name in ["main.js"] if bundled(STATIC_FOLDER) else modules("main.js"):
        yield f'<link rel="modulepreload" href="live/{name}">'
    for name in gradio_parts():
        kind = 'rel="modulepreload"' if name.endswith(".js") else 'rel="preload" as="style"'
        yield f'<link {kind} href="assets/{name}" crossorigin>'
    for path in ("health", "samples/samples.json", "samples/sounds.json", "v1/gallery"):
        yield f'<link rel="preload" as="fetch" href="{path}" crossorigin>'


def gradio_parts() -> list[str]:
    """Of Gradio's own files those that it will ask for, each only when the one before has run."""
    index = (ASSETS_FOLDER.parent / "index.html").read_text(encoding="utf-8")
    found = _BEGINNING.findall(index)
    for part, within in _PARTS.items():
        asking = next(name for name in found if name.startswith(within))
        text = (ASSETS_FOLDER / asking).read_text(encoding="utf-8")
        listed = _LISTED.search(text)
        needed = re.search(part + _NEEDED, text)
        if listed and needed:
            names = [name.removeprefix("./") for name in json.loads(listed[1])]
            found += [names[int(number)] for number in needed[1].split(",")]
    return list(dict.fromkeys(found))


def preview(address: str) -> str:
    """Tags for the page's head: what a chat or a post shows of a link to it.

    Args:
        address: of the page, with its slash.
    """
    picture = f"{address}live/{PREVIEW.name}"
    properties = {
        "og:title": _TITLE,
        "og:description": _DESCRIPTION,
        "og:type": "website",
        "og:url": address,
        "og:image": picture,
        "og:image:width": "1200",
        "og:image:height": "630",
    }
    tags = [f'<meta property="{name}" content="{text}">' for name, text in properties.items()]
    named = {"description": _DESCRIPTION, "twitter:card": "summary_large_image"}
    tags += [f'<meta name="{name}" content="{text}">' for name, text in named.items()]
    return "".join(tags)


def modules(name: str) -> list[str]:
    """A module of the page and all that it needs, each once."""
    found = {name: None}
    waiting = [name]
    while waiting:
        importing = waiting.pop()
        for imported in _IMPORT.findall(_read(importing)):
            path = PurePosixPath(normpath(PurePosixPath(importing).parent / imported)).as_posix()
            if path not in found:
                found[path] = None
                waiting.append(path)
    return list(found)


def _theme() -> gr.themes.Base:
    """System fonts: nothing is fetched from elsewhere."""
    theme = gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(body_background_fill="#f7f7f5", body_background_fill_dark="#141517")


def _read(name: str) -> str:
    return (STATIC_FOLDER / name).read_text(encoding="utf-8")
