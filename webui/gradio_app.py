"""The live page: one Gradio panel whose microphone is a WebSocket away from the model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath

import gradio as gr
from fastapi import FastAPI
from gradio.route_utils import BUILD_PATH_LIB, STATIC_PATH_LIB
from starlette.middleware.cors import CORSMiddleware

from webui.bundling import bundled

STATIC_FOLDER = Path(__file__).parent / "static"

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

_TITLE = "Audio-Interaction Live"
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
"""


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


def build_page() -> gr.Blocks:
    """The page as Gradio blocks."""
    page: gr.Blocks = gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True)
    with page:
        LivePanel()
    return page


def gradio_app() -> FastAPI:
    """Gradio's application with the page, at `/`.

    It has dozens of other routes (uploads, icons of any size, proxies), for anybody: serve only
    those of them that the page needs.
    """
    app = FastAPI()
    # With one of the application's own, which allows nobody, Gradio's lets no other origin in.
    app.add_middleware(CORSMiddleware)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        build_page(),
        path="/",
        ssr_mode=False,
        theme=_theme(),
        css=_FRAME_CSS,
        footer_links=[],
        run_history=False,
    )
    return mounted


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
