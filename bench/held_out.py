"""How many held-out recordings are answered as they should be."""

import asyncio
from pathlib import Path

from backend.model.checkpoint import load_checkpoint
from backend.model.layout import EMBEDDED


def report_held_out(data: Path) -> None:
    """Print the share of the held-out recordings under `data` that is answered exactly."""
    from backend.training.data import read_manifests
    from backend.training.evaluate import evaluate, table
    from backend.training.trials import HeldOut

    checkpoint = load_checkpoint(EMBEDDED, device="cpu")
    result = asyncio.run(evaluate(checkpoint, HeldOut(data, read_manifests(data))))
    print(f"Held-out recordings answered exactly\n{table(result)}\n")
