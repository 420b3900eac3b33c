"""One clip answered with the offline sequence: `python app.py answer FILE`."""

import argparse

from backend.cli.arguments import session_settings
from backend.engine.offline import OfflineAnswerer, read_clip
from backend.events import TextDelta
from backend.model.checkpoint import load_checkpoint


def answer(parsed: argparse.Namespace) -> int:
    """Answer one clip with the offline sequence."""
    clip = read_clip(parsed.file)
    checkpoint = load_checkpoint(
        parsed.checkpoint, device=parsed.device, dtype=parsed.dtype, bits=parsed.bits
    )
    settings = session_settings(parsed, checkpoint.sampling)
    for event in OfflineAnswerer(checkpoint).answer(clip, settings, parsed.text):
        if isinstance(event, TextDelta):
            print(event.delta, end="", flush=True)
    print()
    return 0
