"""Hear a microphone from a pipe, block by block as it comes.

On Linux, in one line:

    arecord --quiet --format S16_LE --rate 16000 --file-type raw |
        python -m examples.stream_generator

`ffmpeg -loglevel quiet -i RECORDING -f s16le -ar 16000 -ac 1 -` gives the same of a recording.
"""

import sys
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from backend import Decision, Engine, TextDelta, TurnDone, load

RATE_HZ = 16_000
BLOCK_BYTES = 640
"""20 ms; blocks may be as long as you like."""


def blocks(pipe: BinaryIO) -> Iterator[npt.NDArray[np.int16]]:
    """Blocks `[320]` until the pipe ends."""
    while len(data := pipe.read(BLOCK_BYTES)) == BLOCK_BYTES:
        yield np.frombuffer(data, "<i2")


def main() -> None:
    """Print a dot for every 0.4 s of listening, and replies as they are written."""
    with Engine(load()) as engine:
        for event in engine.stream(blocks(sys.stdin.buffer), rate_hz=RATE_HZ):
            match event:
                case Decision(speak=False):
                    print(".", end="", flush=True)
                case TextDelta():
                    print(event.delta, end="", flush=True)
                case TurnDone():
                    print(f" [{event.emotion}]", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
