"""Imports point one way, the pure parts are pure, and importing does no work."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# From the inside out: a module imports from its own layer and from those before it.
LAYERS = [
    ["client"],
    ["webui"],
    [
        "backend.admission",
        "backend.allowance",
        "backend.config",
        "backend.counts",
        "backend.errors",
        "backend.events",
        "backend.journal",
        "backend.plotting",
        "backend.protocol",
        "backend.timing",
        "backend.trace",
    ],
    ["backend.audio", "backend.features", "backend.model"],
    ["backend.engine"],
    ["backend.browser", "backend.speech"],
    ["backend.recordings"],
    ["backend.conversation"],
    ["backend.wires"],
    ["backend.serving", "backend.cluster", "backend.cli"],
    ["study"],
    ["bench"],
    ["app"],
]
# Offline work: it may use everything but the front ends, and none of them uses it.
TRAINING = "backend.training"
FRONT_ENDS = [
    "app",
    "backend.cli",
    "backend.conversation",
    "backend.serving",
    "backend.wires",
    "bench",
    "study",
    "webui",
]

# Ray is no part of what all need.
WITH_RAY = [
    "backend.cluster.journal_actor",
    "backend.cluster.replica",
    "backend.cluster.running",
]

PURE = [
    "backend.config",
    "backend.errors",
    "backend.events",
    "backend.protocol",
    "backend.engine.context",
    "backend.engine.scheduler",
]

# What the front ends call as the server does, for it is the same: they know it by the wire alone.
SAME_ON_BOTH_SIDES = {
    "Conversation",
    "Decision",
    "Emotion",
    "Session",
    "Turn",
    "TurnStatus",
    "Voice",
}

# In this order: what is imported, and what must not have come with it.
WITHOUT = {
    "app": ["numpy", "rich"],
    "backend.cli.serve": ["numpy", "torch"],
    "backend.serving.process": ["torch", "transformers", "gradio", "pandas", "fastapi"],
    "backend.cli.recordings": ["torch", "transformers"],
    "backend.recordings.export": ["torch", "transformers", "matplotlib", "pandas", "pyarrow"],
    "study.judge": ["torch", "transformers"],
    "backend.cli.listen": ["fastapi", "gradio"],
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the application, by name."""
    files = [REPOSITORY / "app.py"]
    for package in ("backend", "bench", "client", "study", "webui"):
        files += sorted((REPOSITORY / package).rglob("*.py"))
    return {
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


@cache
def nodes_of(file: Path) -> list[ast.AST]:
    """All that a file's syntax tree holds."""
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


@cache
def imported(file: Path) -> list[str]:
    """The names that a file imports anywhere, also inside functions."""
    return list(_imported(file))


def _imported(file: Path) -> Iterator[str]:
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            assert node.module is not None
            yield node.module


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str) -> int | None:
    for number, layer in enumerate(LAYERS):
        if any(is_in(name, package) for package in layer):
            return number
    return None


def test_imports_point_one_way() -> None:
    for name, file in modules().items():
        layer = layer_of(name)
        for other in imported(file):
            other_layer = layer_of(other)
            if layer is not None and other_layer is not None:
                assert other_layer <= layer, f"{name} must not import {other}"


def test_training_stands_apart() -> None:
    for name, file in modules().items():
        for other in imported(file):
            if is_in(name, TRAINING):
                assert not any(is_in(other, end) for end in FRONT_ENDS), f"{name} imports {other}"
            elif not is_in(name, "bench"):
                assert not is_in(other, TRAINING), f"{name} imports {other}"


@pytest.mark.parametrize("package", ["client", "webui"])
def test_front_ends_know_the_backend_by_its_socket_only(package: str) -> None:
    for name, file in modules().items():
        if is_in(name, package):
            assert not any(is_in(other, "backend") for other in imported(file)), name


def test_every_module_has_a_layer() -> None:
    for name in modules():
        assert name == "backend" or is_in(name, TRAINING) or layer_of(name) is not None, name


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_torch(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        assert not any(is_in(other, "torch") for other in names)


def class_places() -> dict[str, list[str]]:
    """The modules in which each public class is defined, by its name."""
    places: dict[str, list[str]] = {}
    for name, file in modules().items():
        for node in nodes_of(file):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    return places


def test_a_class_name_stands_for_one_thing() -> None:
    repeated = {name: places for name, places in class_places().items() if len(places) > 1}
    assert set(repeated) == SAME_ON_BOTH_SIDES, repeated
    for name, places in repeated.items():
        front = [place for place in places if is_in(place, "client") or is_in(place, "webui")]
        assert (len(front), len(places)) == (1, 2), (name, places)


# In one process, as what everything imports takes many seconds to.
_IMPORTS = """
import importlib, json, os, signal, socket, sys, threading

def refuse(*_):
    raise AssertionError("a connection was opened")

without, names, names_on_windows = json.loads(sys.argv[1])
socket.socket.connect = refuse
for name, heavy in without.items():
    importlib.import_module(name)
    assert not set(heavy) & set(sys.modules), (name, set(heavy) & set(sys.modules))
for name in names:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()

# Once more without what only POSIX has, our modules alone: libraries import on Linux what they do
# not on Windows.
for name in list(sys.modules):
    if name.partition(".")[0] in ("app", "backend", "bench", "client", "study", "webui"):
        del sys.modules[name]
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "getgid", "setsid", "sysconf", "statvfs", "mkfifo"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)
for name in names_on_windows:
    importlib.import_module(name)
"""


def test_ray_is_imported_where_a_cluster_is_asked_for_alone() -> None:
    for name, file in modules().items():
        if any(is_in(other, "ray") for other in imported(file)):
            assert name in WITH_RAY, f"{name} must not import Ray"


def test_importing_does_no_work_and_needs_nothing_that_only_posix_has() -> None:
    """Nothing is printed, no thread runs and no network is touched when everything is imported.

    What takes seconds to import does not come with what needs none of it. Windows goes without
    training and the terminal's keys.
    """
    names = [n for n in modules() if not is_in(n, TRAINING) and n not in WITH_RAY]
    on_windows = [name for name in names if name != "client.terminal"]
    told = json.dumps([WITHOUT, names, on_windows])
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IMPORTS, told],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
