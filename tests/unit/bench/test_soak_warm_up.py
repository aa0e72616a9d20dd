"""Before a soak every size is drawn once, and a pipeline that cannot is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.soak_warm_up import draw_every_size
from serve_app.engine.fake import FakePipeline
from serve_app.engine.state import ImageState
from serve_app.errors import GenerationFailed


class _Noting(FakePipeline):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []
        self.most_rows = 0

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        size = (batch[0].request.width, batch[0].request.height)
        if size not in self.sizes:
            self.sizes.append(size)
        self.most_rows = max(self.most_rows, len(batch))
        super().denoise_step(batch)


def test_every_size_once() -> None:
    pipeline = _Noting()
    draw_every_size(pipeline, (64, 128))
    assert pipeline.sizes == [(64, 64), (64, 128), (128, 64), (128, 128)]
    assert pipeline.most_rows > 1


def test_what_fails_is_told() -> None:
    class Broken(FakePipeline):
        def denoise_step(self, batch: Sequence[ImageState]) -> None:
            raise RuntimeError("no such size")

    with pytest.raises(GenerationFailed):
        draw_every_size(Broken(), (64,))
