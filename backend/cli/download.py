"""Models from the Hub: `python app.py download`."""

import argparse
import shlex
import sys

from backend.model.hub import download_to_folder, verify
from backend.model.layout import DEFAULT_REVISION


def download(parsed: argparse.Namespace) -> int:
    """Fetch a model from the Hub, go on with a fetch that ended early, or check one again."""
    try:
        if parsed.to is None:
            folder = verify(parsed.model, parsed.revision)
            source = parsed.model
            if parsed.revision != DEFAULT_REVISION:
                source += f"@{parsed.revision}"
        else:
            folder = download_to_folder(parsed.model, parsed.revision, parsed.to)
            source = str(folder)
    except KeyboardInterrupt:
        print("stopped; run it again to go on from here", file=sys.stderr)
        raise
    print(f"{folder}: complete, every size and hash is right")
    python = shlex.quote(sys.executable)
    print(f"Serve it: {python} app.py --checkpoint {shlex.quote(source)}")
    return 0
