"""A public link to this server through Gradio's relay, and what to tell about it."""

import atexit
import secrets
import shutil
import tempfile
from contextlib import chdir
from urllib.parse import urlsplit

from backend.errors import SettingsError

KEY_BYTES = 18
LEAVES = (
    "Everything between visitors and this machine goes through Gradio's relay (gradio.live), which "
    "can read it: what they say and type, and the replies. Give the key to those you invite only; "
    "the link ends with the server, or after a week."
)


def new_key() -> str:
    """An access key that nobody can guess."""
    return secrets.token_urlsafe(KEY_BYTES)


def open_link(host: str, port: int) -> str:
    """Have Gradio's relay lead to this server; the link's address, until the process ends.

    Raises:
        SettingsError: there is no link.
    """
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
