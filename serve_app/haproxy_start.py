"""Starts HAProxy for Ray Serve with what its configuration lacks: one open door, and who knocks.

Serve runs this file as its HAProxy binary (`serve_app.haproxy`), with HAProxy's own arguments behind this file's. The
configuration that Serve has just written is changed in place, then this process becomes HAProxy. Only the standard
library, so that it is there within milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def for_one_machine(configuration: str, host: str, port: int) -> str:
    """Serve's configuration of HAProxy for a service that is all on one machine.

    Serve itself listens on loopback there. What is wanted of `host` is only the front door; HAProxy's metrics and
    statistics, which Serve binds to every address, stay on loopback too. The ingress gets to know the client's address
    from ``X-Forwarded-For``, which it believes a peer on loopback.

    Args:
        configuration: As Serve writes it.
        host: Where clients connect to; a name, or an address of either family.
        port: The same port that Serve listens on at 127.0.0.1.

    Raises:
        ValueError: It does not look as expected: another version of Ray.
    """
    address = f"[{host}]" if ":" in host else host
    doors = re.findall(r"^ +bind (?:\*|127\.0\.0\.1|):\d+$", configuration, flags=re.M)
    front = f"    bind 127.0.0.1:{port}"
    if front not in doors or "    mode http\n" not in configuration:
        raise ValueError("Ray Serve writes its HAProxy configuration differently")
    inside = re.sub(r"^( +bind )\*?(:\d+)$", r"\g<1>127.0.0.1\2", configuration, flags=re.M)
    opened = inside.replace(f"{front}\n", f"    bind {address}:{port}\n", 1)
    return opened.replace("    mode http\n", "    mode http\n    option forwardfor\n", 1)


def main(binary: str, host: str, port: int, arguments: list[str]) -> None:
    """Changes the configuration behind ``-f`` and becomes HAProxy, which ends when its parent does."""
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(for_one_machine(path.read_text(), host, port))
    parent = os.getppid()
    # Without it HAProxy would outlive a service that was killed, and keep its port.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
