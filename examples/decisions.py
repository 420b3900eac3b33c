"""What a running server decides of a recording: `python -m examples.decisions RECORDING`."""

import argparse
import json

import soundfile
from websockets.sync.client import connect


def main(path: str, server: str) -> None:
    """Send a recording, mono, and print what comes back: a line for each 0.4 s, and replies."""
    samples, rate = soundfile.read(path, dtype="int16")
    with connect(f"{server}/v1/decisions?input_rate={rate}") as socket:
        # The model answers when speech has ended, so 2 s of silence follow.
        socket.send(samples.tobytes() + bytes(2 * 2 * rate))
        for line in socket:
            print(line)
            if json.loads(line).get("seconds", 0) > len(samples) / rate + 1:
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording")
    parser.add_argument("--server", default="ws://localhost:7860")
    parsed = parser.parse_args()
    main(parsed.recording, parsed.server)
