"""`keep_up`: what `imagine serve` does once all is up: it sees that it stays up, until a signal comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

from serve_app.local_page import LocalPage
from serve_app.local_service import LocalService

LOOK_EVERY_S = 1.0


def keep_up(service: LocalService, page: LocalPage | None, tell: Callable[[str], None]) -> NoReturn:
    """Looks at the processes of both once a second. Replicas, ingress and proxy are Ray's to replace.

    Args:
        service: Started.
        page: Started, or None.
        tell: Takes sentences for a person.

    Raises:
        PoolUnavailable: Ray itself has ended: nothing is served any more, and whoever started this should hear of it.
    """
    while True:
        time.sleep(LOOK_EVERY_S)
        service.check()
        if page is not None and (news := page.revive()) is not None:
            tell(news)
