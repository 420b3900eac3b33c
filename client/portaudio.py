"""PyAudio and the PortAudio library under it: are they there, and the command if not."""

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OS_RELEASE = Path("/etc/os-release")


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


def can_build() -> bool:
    """Whether pip can build PyAudio here, as far as a compiler and a header say."""
    if platform.system() == "Windows":
        return True  # a wheel is there
    has_compiler = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    folders = ["/usr/include", "/usr/local/include", "/opt/homebrew/include"]
    return has_compiler and any((Path(folder) / "portaudio.h").is_file() for folder in folders)
