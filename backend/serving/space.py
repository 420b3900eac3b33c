"""What the surroundings decide about serving: this machine, or a Hugging Face Space.

A Space says so in its environment: https://huggingface.co/docs/hub/spaces-overview
"""

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.errors import SettingsError

PERSISTENT_STORAGE = Path("/data")
"""There if the Space has any; all else is gone when it restarts."""
SCRATCH = Path("/tmp")
EMBEDDING_PAGES = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Defaults for the options of `serve`; what the command line says comes first."""

    host: str = "127.0.0.1"
    trusted_proxies: str | None = None
    may_record: bool = True
    own_hosts: tuple[str, ...] = ()
    """Under which browsers know us, whatever a proxy makes of the `Host` header."""
    framed_by: tuple[str, ...] = ()
    """Whose pages may show ours in a frame, beside our own."""
    wants_released_model: bool = False
    """Where there is a GPU for it."""
    lends_gpu: bool = False
    """For single calls alone (ZeroGPU)."""


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Where we are, by the environment's variables."""
    if "SPACE_ID" not in environment:
        return Surroundings()
    hosts = environment.get("SPACE_HOST", "").split(",")
    return Surroundings(
        host="0.0.0.0",
        # Nobody reaches a Space but through the Hub's proxies, whose addresses change.
        trusted_proxies="*",
        # Visitors of a public page cannot know who looks after its disk.
        may_record=False,
        own_hosts=tuple(host for host in hosts if host),
        framed_by=EMBEDDING_PAGES,
        wants_released_model=True,
        lends_gpu=environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"),
    )


@contextmanager
def without_proxies(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Hide the variables that name proxies while something is imported that stumbles over them.

    Gradio makes a client as it is imported, for which it needs packages that it does not bring, or
    addresses without ranges. Downloads and online voices see the variables again.
    """
    hidden = {name: environment[name] for name in environment if name.lower().endswith("_proxy")}
    for name in hidden:
        del environment[name]
    try:
        yield
    finally:
        environment.update(hidden)


def default_recordings_folder() -> Path:
    """Where conversations are recorded if no option says where.

    Raises:
        SettingsError: this user has no folder for data.
    """
    # The doctor runs where nothing is installed.
    from platformdirs import user_data_path

    try:
        return user_data_path("audio-interaction-live", appauthor=False) / "recordings"
    except RuntimeError as error:
        raise SettingsError(
            "this user has no home folder: set HOME, say where to record with --recordings, or "
            "record nothing with --no-recordings"
        ) from error


def settle_in(
    environment: MutableMapping[str, str],
    persistent: Path = PERSISTENT_STORAGE,
    scratch: Path = SCRATCH,
) -> None:
    """Have everything written where a Space may write; before any library looks.

    What the environment says already stays.
    """
    if "SPACE_ID" not in environment:
        return
    storage = persistent if os.access(persistent, os.W_OK) else scratch
    environment.setdefault("HF_HOME", str(storage / ".huggingface"))
    environment.setdefault("XDG_CACHE_HOME", str(scratch / ".cache"))
    environment.setdefault("GRADIO_TEMP_DIR", str(scratch / "gradio"))
