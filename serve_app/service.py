"""`ImageService`: what the wire formats see of the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from serve_app.capabilities import PoolFacts
from serve_app.jobs import JobKeeper
from serve_app.live_drawings import LiveDrawings
from serve_app.pool_status import PoolStatus
from serve_app.quotas import Quotas
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.settings import Settings
from serve_app.store import PictureStore


class ImageService(Protocol):
    """The ingress as its wire formats see it. `serve_app.ingress.Ingress` is the real one."""

    @property
    def settings(self) -> Settings:
        """The application's settings."""
        ...

    @property
    def store(self) -> PictureStore:
        """Where pictures answered by url live."""
        ...

    @property
    def live(self) -> LiveDrawings:
        """What is being drawn now, and for whom."""
        ...

    @property
    def jobs(self) -> JobKeeper:
        """The jobs."""
        ...

    @property
    def quotas(self) -> Quotas:
        """How much each caller may draw."""
        ...

    async def facts(self, pool: str | None = None, model: str | None = None) -> PoolFacts:
        """Defaults and capabilities of the named pool, or of the one that serves unnamed requests.

        Raises:
            UnknownModel: No such pool or model.
            PoolUnavailable: Its replicas do not start.
        """
        ...

    async def all_facts(self) -> Sequence[PoolFacts]:
        """Facts of every pool that draws, at once or after a start."""
        ...

    async def pool_statuses(self) -> Sequence[PoolStatus]:
        """What every configured pool is doing, in order of configuration."""
        ...

    def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; yields progress and, last, the result. Closing the iterator cancels the drawing.

        Args:
            draft: What to draw.
            progress: Whether to yield a `StepProgress` for every place in the queue and every step.

        Raises:
            ImagineError: Any of the domain errors.
        """
        ...

    async def draw(self, draft: RequestDraft) -> GenerationResult:
        """`stream` to its end. Cancelling the task cancels the drawing."""
        ...
