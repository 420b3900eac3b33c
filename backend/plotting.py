"""Figures for papers: two-column widths, small type, colours that colour-blind readers tell apart.

matplotlib is imported when a figure is made: it is not among what serving needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import SettingsError
from backend.protocol import Emotion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("svg", "pdf", "png")
PNG_DPI = 300
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442")
"""Okabe and Ito's (jfly.uni-koeln.de/color), the darkest first; told apart by dashes as well."""
DASHES = ("-", "--", "-.", ":")
EMOTION_COLOURS: dict[Emotion | None, str] = {
    Emotion.NORMAL: "#0072B2",
    Emotion.HAPPY: "#E69F00",
    Emotion.SURPRISE: "#CC79A7",
    Emotion.SAD: "#56B4E9",
    Emotion.ANGRY: "#D55E00",
    Emotion.URGENT: "#F0E442",
    None: "#999999",
}
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "lines.markersize": 3,
    "hatch.linewidth": 0.5,
    # Text stays text, which editors and journals can work with.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # The same figure gives the same file.
    "svg.hashsalt": "audio-interaction-live",
}


class Columns(Enum):
    """How wide a figure is, in inches, on a page of two columns."""

    ONE = 3.35
    TWO = 7.0


def require_figure(path: Path) -> Path:
    """`path`, where a figure can be written that is called so.

    Raises:
        SettingsError: it ends in no suffix of a figure, or matplotlib is missing.
    """
    suffixes = [f".{each}" for each in FIGURE_FORMATS]
    if path.suffix.lower() not in suffixes:
        raise SettingsError(f"{path} must end in {', '.join(suffixes)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingsError(
            "figures need matplotlib: pip install -r requirements-study.txt"
        ) from error
    return path


@contextmanager
def drawing(
    path: Path, columns: Columns, height_inches: float, kind: str | None = None
) -> Iterator["Figure"]:
    """A figure that is written to `path` when the block has ended well.

    Args:
        path: where to; its suffix says as what, unless `kind` does.
        columns: how wide.
        height_inches: how high.
        kind: one of FIGURE_FORMATS.

    Raises:
        SettingsError: as `require_figure`.
    """
    suffix = path.suffix.lower() if kind is None else f".{kind}"
    require_figure(path.with_suffix(suffix))
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns.value, height_inches), layout="constrained")
        yield figure
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(
            path, dpi=PNG_DPI, format=suffix.removeprefix("."), metadata=metadata.get(suffix)
        )
