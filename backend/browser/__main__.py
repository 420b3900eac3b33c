"""Write the model for a page: `python -m backend.browser build/browser-model`."""

import argparse
from pathlib import Path

from backend.browser.export import LARGEST_DIFFERENCE, difference, export
from backend.browser.graph import WeightFormat
from backend.errors import AudioInteractionError
from backend.model.checkpoint import EMBEDDED, load_checkpoint


def main() -> None:
    """Export a checkpoint and compare it with torch."""
    parser = argparse.ArgumentParser(prog="python -m backend.browser", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to; it is made")
    parser.add_argument("--checkpoint", default=EMBEDDED, help="a folder or Hub id (%(default)s)")
    formats = list(WeightFormat)
    parser.add_argument("--weights", type=WeightFormat, choices=formats, default=WeightFormat.EXACT)
    parsed = parser.parse_args()
    try:
        checkpoint = load_checkpoint(parsed.checkpoint, device="cpu", dtype="float32")
        export(checkpoint, parsed.folder, parsed.weights)
    except AudioInteractionError as error:
        parser.error(str(error))
    found = difference(checkpoint, parsed.folder)
    size = sum(path.stat().st_size for path in parsed.folder.iterdir())
    print(f"{parsed.folder}: {size / 1e6:.1f} MB; from torch, at most")
    print(f"{found.features:.1e} in a feature, {found.logits:.1e} in a logit")
    if found.logits > LARGEST_DIFFERENCE and parsed.weights is WeightFormat.EXACT:
        raise SystemExit(f"more than {LARGEST_DIFFERENCE:g}: this is another model")


if __name__ == "__main__":
    main()
