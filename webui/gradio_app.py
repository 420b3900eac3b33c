"""The live page: one Gradio panel whose microphone is a WebSocket away from the model."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

STATIC_FOLDER = Path(__file__).parent / "static"

_TITLE = "Audio-Interaction Live"
# A function body, not a module; the address is relative so that proxies with a prefix work.
_START = "import(new URL('live/main.js', document.baseURI).href).then((m) => m.mount(element));"
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
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as page:
        LivePanel()
    return page


def mount_page(app: FastAPI) -> FastAPI:
    """Serve the page at `/` of an application that already has its other routes."""
    return gr.mount_gradio_app(
        app,
        build_page(),
        path="/",
        ssr_mode=False,
        theme=_theme(),
        favicon_path=str(STATIC_FOLDER / "favicon.png"),
        css=_FRAME_CSS,
        footer_links=[],
        run_history=False,
    )


def _theme() -> gr.themes.Base:
    """System fonts: nothing is fetched from elsewhere."""
    theme = gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(body_background_fill="#f7f7f5", body_background_fill_dark="#141517")


def _read(name: str) -> str:
    return (STATIC_FOLDER / name).read_text(encoding="utf-8")
