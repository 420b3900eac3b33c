"""Assemble the page that holds the model, or export the model alone.

`python -m backend.browser page`, which is `make static`; `python -m backend.browser model`; and
`engine`, which is the part of the page that a server makes for those who wait.
"""

import argparse
from pathlib import Path

from backend.browser.graph import WeightFormat
from backend.browser.page import assemble, build_engine, export_checked, size_of
from backend.browser.runtime import REPOSITORY
from backend.errors import AudioInteractionError
from backend.model.checkpoint import Checkpoint, load_checkpoint
from backend.model.layout import EMBEDDED

BUILD = REPOSITORY / "build"


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(
        prog="python -m backend.browser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["page", "model", "engine"])
    parser.add_argument("--folder", type=Path, help="where to (in build/, by what it is)")
    parser.add_argument("--checkpoint", default=EMBEDDED, help="a folder or Hub id (%(default)s)")
    parser.add_argument(
        "--weights", type=WeightFormat, choices=list(WeightFormat), default=WeightFormat.EXACT
    )
    parsed = parser.parse_args()
    try:
        checkpoint = load_checkpoint(parsed.checkpoint, device="cpu", dtype="float32")
        match parsed.what:
            case "page":
                _page(checkpoint, parsed.folder or BUILD / "static", parsed.weights)
            case "model":
                _model(checkpoint, parsed.folder or BUILD / "model", parsed.weights)
            case "engine":
                build_engine(parsed.folder or BUILD / "engine", checkpoint, parsed.weights)
    except AudioInteractionError as error:
        parser.error(str(error))


def _page(checkpoint: Checkpoint, folder: Path, weights: WeightFormat) -> None:
    assemble(folder, checkpoint, weights)
    print(f"{folder}: {size_of(folder) / 1e6:.1f} MB; try it, or push it to a static Space:")
    print(f".venv/bin/python -m http.server --directory {folder}")
    print(f"hf upload --repo-type space USER/NAME {folder} .")


def _model(checkpoint: Checkpoint, folder: Path, weights: WeightFormat) -> None:
    found = export_checked(checkpoint, folder, weights)
    print(f"{folder}: {size_of(folder) / 1e6:.1f} MB; from torch, at most")
    print(f"{found.features:.1e} in a feature, {found.logits:.1e} in a logit")


if __name__ == "__main__":
    main()
