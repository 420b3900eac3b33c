"""Audio-Interaction Live: `python app.py` serves the page, `python app.py listen` hears files."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (an older one would only find fault with the syntax)
    raise SystemExit(f"app.py: needs Python 3.11 or newer, and this is {sys.version.split()[0]}")

import io
import os
import pkgutil
import shlex
from pathlib import Path

from backend.cli import (
    EXIT_ENGINE_FAILED,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    leave_at_once,
    leave_quietly,
)
from backend.cli.arguments import parse
from backend.errors import AudioInteractionError, EngineFailedError
from backend.serving.surroundings import settle_in

COMMANDS = {
    "serve": "backend.cli.serve:serve",
    "cluster": "backend.cli.cluster:cluster",
    "talk": "backend.cli.talk:talk",
    "listen": "backend.cli.listen:listen",
    "replay": "backend.cli.recordings:replay",
    "export": "backend.cli.recordings:export",
    "recordings": "backend.cli.recordings:recordings",
    "answer": "backend.cli.listen:answer",
    "download": "backend.cli.download:download",
    "doctor": "backend.cli.doctor:doctor",
    "evaluate-proactive": "study.proactive:evaluate_proactive",
    "probe": "study.probe:probe",
    "compare": "study.compare:compare",
    "judge": "study.judge:judge",
    "duplex-bench": "study.duplex_bench:duplex_bench",
}
"""Imported when it is asked for: torch alone takes seconds, and packages may be missing."""


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    for name in ("stdout", "stderr"):
        # A service, or a window without a terminal, may have none.
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # What it cannot encode, such as a file's name that is not UTF-8, is escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    # Torch's threads wait for each other hundreds of times in a step: asleep, so that a core that
    # something else keeps busy does not hold up the others. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parsed = parse(arguments)
    try:
        settle_in(os.environ)
        exit_code: int = pkgutil.resolve_name(COMMANDS[parsed.command])(parsed)
        sys.stdout.flush()
        return exit_code
    except EngineFailedError as error:
        print(f"app.py: {error}", file=sys.stderr)
        leave_at_once(EXIT_ENGINE_FAILED)
    except AudioInteractionError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        return _say_what_broke(error, f"the package {package} is missing")
    except BrokenPipeError:
        leave_quietly()
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"app.py: {place}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        # A package that cannot load its libraries, say, or a system that gives no more threads.
        reason = " ".join(str(error).split())
        return _say_what_broke(error, f"{type(error).__name__}: {reason}".removesuffix(": "))


def _say_what_broke(error: Exception, what: str) -> int:
    """Of what is not foreseen: `python -X dev` shows where it was."""
    if sys.flags.dev_mode:
        raise error
    doctor = f"{shlex.quote(sys.executable)} app.py doctor"
    print(f"app.py: {what}; what helps says: {doctor}", file=sys.stderr)
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
