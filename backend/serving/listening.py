"""The socket that a server listens on. Cheap to import: a port that is taken is said at once."""

import socket
from ipaddress import ip_address

from backend.errors import SettingsError

_HERE = frozenset(map(ip_address, ("127.0.0.1", "0.0.0.0", "::1", "::")))


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
