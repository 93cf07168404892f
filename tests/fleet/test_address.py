import pytest

from edgeres.errors import UsageError
from edgeres.fleet.address import Address, host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("nano", "nano", 0),
        ("nano.local:2222", "nano.local", 2222),
        ("192.168.1.20:65535", "192.168.1.20", 65535),
        ("fe80::1", "fe80::1", 0),
        ("[fe80::1]", "fe80::1", 0),
        ("[fe80::1%eth0]:22", "fe80::1%eth0", 22),
    ],
)
def test_host_and_port(text: str, host: str, port: int) -> None:
    assert host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":2",
        "nano:",
        "nano:ssh",
        "nano:65536",
        "nano:" + "1" * 5000,
        "[hello@/x]:80",
        "nano:-1",
        "a:1:2",
        "a b",
        "[::1",
        "a/b",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        host_port(text)


@pytest.mark.parametrize(
    ("text", "whole", "loopback"),
    [
        ("tls://10.0.0.2:99", "tls://10.0.0.2:99", False),
        ("tls://10.0.0.2", "tls://10.0.0.2:8786", False),
        ("tcp://localhost", "tcp://localhost:8786", True),
        ("tcp://127.9.9.9:1", "tcp://127.9.9.9:1", True),
        ("tls://::1", "tls://[::1]:8786", True),
        ("tls://[::1]:5", "tls://[::1]:5", True),
    ],
)
def test_the_address_of_a_scheduler(text: str, whole: str, loopback: bool) -> None:
    address = Address.parse(text)
    assert (str(address), address.loopback) == (whole, loopback)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "10.0.0.2:8786", "http://10.0.0.2", "tls:/a", "tls://", "tls://a:99999", "tls://a:1:1"]
)
def test_what_is_no_address_of_a_scheduler_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Address.parse(text)
