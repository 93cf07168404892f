"""Where something listens, as users write it: HOST:PORT, or tls://HOST:PORT of a scheduler."""

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass

from edgeres.errors import UsageError

PORT = 8786
"""Of a scheduler, where none is named; Dask's."""
PLACE = re.compile(r"(?:\[(?P<v6>[^\]\s]+)\]|(?P<host>[^:\[\]/@\s]+))(?::(?P<port>[0-9]{1,5}))?")


def host_port(text: str) -> tuple[str, int]:
    """Host and port of "host", "host:port", "[v6]", "[v6]:port" (RFC 3986, 3.2.2) or "v6"; port 0 where none is given.

    UsageError where it is none of these, or the port none of TCP's.
    """
    with suppress(ValueError):
        return str(ipaddress.ip_address(text)), 0
    found = PLACE.fullmatch(text)
    if not found or int(found["port"] or 0) > 65535:
        raise UsageError(f"{text!r} is no address; write HOST:PORT, with a port from 1 to 65535, or HOST.")
    if found["v6"]:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(found["v6"])), int(found["port"] or 0)
        raise UsageError(f"{text!r} is no address; write HOST:PORT, or [ADDRESS]:PORT of IPv6.")
    return found["host"], int(found["port"] or 0)


def place(host: str, port: int) -> str:
    """The other way: "host:port", "[v6]:port"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class Address:
    """Where a scheduler listens: `scheme` is "tls", or "tcp" without certificates."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From "tls://HOST:PORT" or "tcp://HOST:PORT", with `PORT` where none is given; UsageError where it is none."""
        scheme, _, rest = text.partition("://")
        if scheme not in ("tls", "tcp"):
            raise UsageError(
                f"{text!r} is no address of a scheduler; write tls://HOST:{PORT}, or tcp://127.0.0.1:{PORT} without "
                "certificates."
            )
        host, port = host_port(rest)
        return cls(scheme, host, port or PORT)

    def __str__(self) -> str:
        return f"{self.scheme}://{place(self.host, self.port)}"

    @property
    def loopback(self) -> bool:
        """Whether it is for this machine alone."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"
