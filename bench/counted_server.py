"""`app.py`, which says in its log how many tasks it has when it gets SIGUSR1."""

import asyncio
import runpy
import signal
import sys
from pathlib import Path

TASKS = "tasks: "


def main() -> None:
    """Run a command of `app.py`."""

    def tell(*_: object) -> None:
        # The main thread's, which runs the loop.
        print(f"{TASKS}{len(asyncio.all_tasks())}", file=sys.stderr, flush=True)

    signal.signal(signal.SIGUSR1, tell)
    runpy.run_path(str(Path(__file__).parents[1] / "app.py"), run_name="__main__")


if __name__ == "__main__":
    main()
