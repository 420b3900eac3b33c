"""Where the server stands: on this machine or a Space, at which address, and whether with a link.

Cheap to import: a port that is taken is said at once. A Space says what it is in its environment:
https://huggingface.co/docs/hub/spaces-overview
"""

import atexit
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from backend.errors import SettingsError

PERSISTENT_STORAGE = Path("/data")
"""There if the Space has any; all else is gone when it restarts."""
SCRATCH = Path("/tmp")
EMBEDDING_PAGES = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")
_HERE = frozenset(map(ip_address, ("127.0.0.1", "0.0.0.0", "::1", "::")))
KEY_BYTES = 18
LEAVES = (
    "Everything between visitors and this machine goes through Gradio's relay (gradio.live), which "
    "can read it: what they say and type, and the replies. Give the key to those you invite only; "
    "the link ends with the server, or after a week."
)


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


def page_address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page of a server that listens on `host`."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    # Browsers give localhost the microphone; the unspecified address stands for every one.
    if address in _HERE:
        return f"http://localhost:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"


def listen_on(host: str, port: int) -> socket.socket:
    """A socket for the address; `::` is every address of this machine, 127.0.0.1 among them.

    Raises:
        SettingsError: it is taken, not this machine's or not allowed; uvicorn would only log that.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_for_both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=is_for_both)
    except (OSError, OverflowError) as error:
        # What follows in brackets is the address once more.
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise SettingsError(
            f"port {port} of {host} cannot be served on: {reason[0].lower()}{reason[1:]}; "
            "choose another with --port or --host"
        ) from error


def new_key() -> str:
    """An access key that nobody can guess."""
    return secrets.token_urlsafe(KEY_BYTES)


def open_link(host: str, port: int) -> str:
    """Have Gradio's relay lead to this server; the link's address, until the process ends.

    Raises:
        SettingsError: there is no link.
    """
    with without_proxies(os.environ):
        from gradio.networking import setup_tunnel

    local = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)
    try:
        # The relay's certificate is written into the working folder, which may be read-only, and
        # read again by the relay's program for as long as that runs.
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with chdir(folder):
            return setup_tunnel(local, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # of any kind: of the network, the relay or its program
        reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        raise SettingsError(
            f"there is no public link: {reason}. Gradio's relay is asked at api.gradio.app, and "
            "its program comes from cdn-media.huggingface.co: both have to be reachable. Without "
            "--share the page is served on this machine"
        ) from error


def host_of(link: str) -> str:
    """The host that browsers name when they have followed it."""
    return urlsplit(link).netloc


def with_key(link: str, access_key: str) -> str:
    """What is told in the terminal, and there alone."""
    return f"Public link: {link}/\nAccess key:  {access_key}\n{LEAVES}"
