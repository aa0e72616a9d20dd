"""Which addresses a webhook may reach: public ones only, whatever a host name resolves to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From host and port to IP addresses; raises OSError when there are none."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def resolve(host: str, port: int) -> Sequence[str]:
    """IP addresses of a host by the system's resolver.

    Raises:
        OSError: It has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: str) -> bool:
    """Whether an IP address is reached over the internet: not private, loopback, link-local, multicast, reserved.

    An IPv6 address that stands for an IPv4 address (mapped, 6to4, Teredo, NAT64) is as public as that one.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False  # such as one with a zone, which is never public
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = [parsed.ipv4_mapped, parsed.sixtofour, *(parsed.teredo or ())]
        if parsed in _NAT64:
            inner.append(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF))
        known = [ipv4 for ipv4 in inner if ipv4 is not None]
        if known:
            return all(is_public(str(ipv4)) for ipv4 in known)
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved
