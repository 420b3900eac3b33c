"""Where a server is, as people write it."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlencode, urlsplit

from client.messages import ClientError, message

DEFAULT_SERVER = "ws://localhost:7860"
_ROUTE = "/v1/realtime"
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_PAGES = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server, and the key that it may ask for.

    Attributes:
        base: `ws://` or `wss://`, host, port and a proxy's prefix, without a slash at the end.
    """

    base: str
    access_key: str | None = None

    @classmethod
    def parse(cls, text: str, access_key: str | None = None) -> "ServerAddress":
        """What people paste: `localhost:7860`, `https://host/prefix`, `wss://host/v1/realtime`.

        Raises:
            ClientError: it is no address.
        """
        written = text.strip()
        url = written if "://" in written else f"ws://{written}"
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname) and not any(map(str.isspace, url))
            parts.port  # noqa: B018, it raises for a port that is none
        except ValueError:
            has_host = False
        if not has_host or parts.scheme not in _SCHEMES:
            raise ClientError(message("problem.address", text=text, example=DEFAULT_SERVER))
        return cls(_base(parts), access_key or None)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, where no proxy belongs in between."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def port(self) -> int:
        """That of the socket."""
        parts = urlsplit(self.base)
        return parts.port or (443 if parts.scheme == "wss" else 80)

    def page(self, path: str = "") -> str:
        """The address of something that is served over HTTP there."""
        scheme, _, rest = self.base.partition("://")
        return f"{_PAGES[scheme]}://{rest}/{path}"

    def socket(self, *, resumes: bool, recording_title: str | None = None) -> str:
        """The address of the conversation's socket; with a title, also an empty one, it records."""
        # With numpy, which `app.py doctor` and `--help` have to do without.
        from client.audio_format import SAMPLE_RATE_HZ

        query: dict[str, str | int] = {"duplex": 1, "input_rate": SAMPLE_RATE_HZ}
        if resumes:
            query |= {"autostart": 0}
        elif recording_title is not None:
            query |= {"record": 1, "title": recording_title}
        return f"{self.base}{_ROUTE}?{urlencode(query)}"


def _base(parts: SplitResult) -> str:
    path = parts.path.rstrip("/").removesuffix(_ROUTE)
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}"
