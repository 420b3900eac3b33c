"""PyAudio and the PortAudio library under it: are they there, and the command if not."""

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OS_RELEASE = Path("/etc/os-release")
HEADER_FOLDERS = (
    Path("/usr/include"),
    Path("/usr/local/include"),
    Path("/opt/homebrew/include"),
)


@dataclass(frozen=True, slots=True)
class System:
    """What matters of a computer for installing something on it.

    Attributes:
        kind: as `platform.system()` says it: Linux, Darwin, Windows.
        distributions: of Linux, the own name first, then those it is like.
        is_root: whether commands need no `sudo`.
    """

    kind: str
    distributions: tuple[str, ...] = ()
    is_root: bool = False

    @classmethod
    def this(cls) -> "System":
        """The one that this runs on."""
        release = OS_RELEASE.read_text(encoding="utf-8") if OS_RELEASE.is_file() else ""
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        return cls(platform.system(), distributions_in(release), is_root)


def distributions_in(os_release: str) -> tuple[str, ...]:
    """The names in a file `/etc/os-release`: the own first, then those it is like."""
    fields: Mapping[str, str] = dict(
        line.split("=", 1) for line in os_release.splitlines() if "=" in line
    )
    own, like = (fields.get(name, "").strip("\"'") for name in ("ID", "ID_LIKE"))
    return (*own.split(), *like.split())


def install_portaudio(system: System) -> str:
    """The command that installs what PyAudio is built from: PortAudio and a C compiler."""
    sudo = "" if system.is_root else "sudo "
    match system.kind:
        case "Darwin":
            return "brew install portaudio"
        case "Windows":
            return "py -m pip install PyAudio"
    for distribution in system.distributions:
        match distribution:
            case "debian" | "ubuntu":
                return f"{sudo}apt-get install -y portaudio19-dev gcc python3-dev"
            case "fedora" | "rhel" | "centos":
                return f"{sudo}dnf install -y portaudio-devel gcc python3-devel"
            case "arch":
                return f"{sudo}pacman -S --needed portaudio gcc"
            case "suse" | "opensuse":
                return f"{sudo}zypper install -y portaudio-devel gcc python3-devel"
            case "alpine":
                return f"{sudo}apk add portaudio-dev gcc musl-dev python3-dev"
    return "your system's package manager: the development files of PortAudio and a C compiler"


def install_pyaudio(system: System) -> str:
    """The commands that make `import pyaudio` work, once more or for the first time."""
    portaudio = install_portaudio(system)
    if system.kind == "Windows":
        return portaudio
    return f"{portaudio} && {sys.executable} -m pip install PyAudio"


def missing(system: System) -> str | None:
    """What keeps pip from installing PyAudio here, in one sentence; None where nothing does."""
    if system.kind == "Windows" or importlib.util.find_spec("pyaudio") is not None:
        return None  # its wheel has everything, or it is there
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    has_headers = any((folder / "portaudio.h").is_file() for folder in HEADER_FOLDERS)
    python_header = Path(sysconfig.get_path("include")) / "Python.h"
    if has_compiler and has_headers and python_header.is_file():
        return None
    return (
        "The local clients need PortAudio, a C compiler and Python's headers to build PyAudio, and "
        f"not all of them are here; install them with: {install_portaudio(system)}"
    )


if __name__ == "__main__":
    sys.exit(missing(System.this()))
