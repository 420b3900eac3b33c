"""The commands of the command line, and what their exit codes say."""

import os
import sys
from typing import NoReturn

EXIT_UNUSABLE_FILE = 1
EXIT_DIFFERENT = 1
EXIT_UNWELL = 1
EXIT_ERROR = 2
EXIT_ENGINE_FAILED = 3
EXIT_INTERRUPTED = 130


def counted(number: int, thing: str) -> str:
    """So many of a thing: `1 clip`, `2 clips`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def leave_at_once(exit_code: int) -> NoReturn:
    """Do not wait for a thread that cannot be told to end: it hangs, or loads a model."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def leave_quietly() -> None:
    """The reader of our output has left (`| head`): leave as well, without a last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
