"""In the place of the neural voice's process: half a second of a constant for every sentence.

`slow` takes longer than the sound lasts, `mute` says nothing, `ends` after it was measured.
"""

import json
import sys
import time

PCM = b"\x01\x00" * 12_000


def answer(told: dict[str, object], sound: bytes = b"") -> None:
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + sound)
    sys.stdout.buffer.flush()


def main(manner: str) -> None:
    if manner == "mute":
        return
    answer({})
    for number, line in enumerate(sys.stdin):
        if manner == "ends" and number == 2:
            return
        if manner == "slow":
            time.sleep(0.6)
        if json.loads(line)["text"] == "Unspeakable.":
            answer({"error": "ValueError: no"})
        else:
            answer({"bytes": len(PCM)}, PCM)


if __name__ == "__main__":
    main(sys.argv[1])
