"""A server that may open few descriptors: `python -m tests.limited_server NUMBER`.

It tells its address in a line. Each further line that it is sent takes (`take`) all descriptors
but a few away from it, or gives them back (`give`), which it confirms; at the end of its input it
ends.
"""

import os
import sys

from tests.scripted import ScriptedEngine
from tests.serving import serving

NUM_LEFT = 2


def main(limit: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    taken: list[int] = []
    with serving(ScriptedEngine([])) as address:
        print(address, flush=True)
        for line in sys.stdin:
            match line.strip():
                case "take":
                    _take(taken)
                case "give":
                    for descriptor in taken:
                        os.close(descriptor)
                    taken.clear()
            print("done", flush=True)


def _take(taken: list[int]) -> None:
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(NUM_LEFT):
            os.close(taken.pop())


if __name__ == "__main__":
    main(int(sys.argv[1]))
