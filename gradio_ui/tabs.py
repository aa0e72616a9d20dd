"""All open pages, and when one counts as gone: `Tabs`. No Gradio and no HTTP in here.

A tab is one page in one browser; its id lives in the browser's session storage, so it outlives a reload. While a
browser listens (`Tabs.listen`) its drawings go on. When the last listener has left, the tab waits a moment for the
page to come back; then the drawings that were not asked to finish are cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from gradio_ui.client import Service, ServiceError
from gradio_ui.drawings import Tab

RELOAD_S = 8.0
"""How long a page that said goodbye may take to come back: a reload over a slow line."""

LOST_S = 45.0
"""How long a page whose connection broke without a word may take: a telephone between two cells."""

MAX_TABS = 2000


class Tabs:
    """All open pages.

    Args:
        service: Draws.
        reload_s: See `RELOAD_S`.
        lost_s: See `LOST_S`.
    """

    def __init__(self, service: Service, *, reload_s: float = RELOAD_S, lost_s: float = LOST_S) -> None:
        self._service = service
        self._reload_s, self._lost_s = reload_s, lost_s
        self._tabs: dict[str, Tab] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def get(self, tab_id: str) -> Tab:
        """The tab of this id, a new one where there is none.

        Raises:
            ServiceError: Too many pages are open.
        """
        tab = self._tabs.get(tab_id)
        if tab is None:
            if len(self._tabs) >= MAX_TABS:
                raise ServiceError("too many pages are open", status=429, retry_after_s=60)
            tab = self._tabs[tab_id] = Tab(self._service)
        if tab.listeners == 0:
            self._expect(tab_id, self._lost_s)  # an order may come before its page listens
        return tab

    async def listen(self, tab_id: str) -> AsyncGenerator[dict[str, Any] | None, None]:
        """`Tab.listen` of a page that is there for as long as it does."""
        tab = self.get(tab_id)
        self._stay(tab_id)
        try:
            async with aclosing(tab.listen()) as views:
                async for view in views:
                    yield view
        finally:
            # Its goodbye may have come first, and gives it less time.
            if tab.listeners == 0 and tab_id not in self._leaving:
                self._expect(tab_id, self._lost_s)

    def goodbye(self, tab_id: str) -> None:
        """The page said that it closes; a reload brings it back at once."""
        if tab_id in self._tabs:
            self._expect(tab_id, self._reload_s)

    async def aclose(self) -> None:
        """Stops following everything; unfinished jobs go on, for their pages to find them again."""
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*(tab.close() for tab in self._tabs.values()))

    def _stay(self, tab_id: str) -> None:
        task = self._leaving.pop(tab_id, None)
        if task is not None:
            task.cancel()

    def _expect(self, tab_id: str, wait_s: float) -> None:
        self._stay(tab_id)
        self._leaving[tab_id] = asyncio.get_running_loop().create_task(self._end_unless_back(tab_id, wait_s))

    async def _end_unless_back(self, tab_id: str, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        del self._leaving[tab_id]
        # The browser's copy of a page has its id, and is still there when the other one closes.
        if self._tabs[tab_id].listeners:
            return
        # From here on a page of this id that comes back is a new one.
        tab = self._tabs.pop(tab_id)
        await tab.leave()
