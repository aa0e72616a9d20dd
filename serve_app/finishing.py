"""`Finishing`: from a drawn picture's pixels to the file that leaves the replica."""

from __future__ import annotations

from serve_app.images import encode
from serve_app.metadata import picture_parameters
from serve_app.request import GenerationRequest
from serve_app.result import Pixels
from serve_app.safety import load_checker, refuse_unless_safe
from serve_app.settings import SafetySettings


class Finishing:
    """Checks, marks and encodes pictures. From any thread, several at a time.

    Args:
        model: The pool's model, as configured.
        scheduler_name: Its own noise scheduler, for files whose request names none.
        metadata: Whether files say how they were drawn.
        watermark: Whether pictures get the invisible watermark.
        safety: What looks at them; None lets all pass.

    Raises:
        ConfigurationError: The safety checker did not start.
    """

    def __init__(
        self,
        model: str,
        scheduler_name: str,
        *,
        metadata: bool = True,
        watermark: bool = False,
        safety: SafetySettings | None = None,
    ) -> None:
        self._model = model
        self._scheduler_name = scheduler_name
        self._metadata = metadata
        self._watermark = watermark
        self._checker = None if safety is None else load_checker(safety)

    @property
    def previews(self) -> bool:
        """Whether previews may be shown: nothing looks at them, so not where something must."""
        return self._checker is None

    def file(self, request: GenerationRequest, index: int, pixels: Pixels) -> bytes:
        """The file of picture `index`; blocks while it is checked and encoded.

        Raises:
            PictureRefused: The safety checker lets nobody have it.
            GenerationFailed: The safety checker failed.
        """
        if self._checker is not None:
            refuse_unless_safe(self._checker, pixels, request.prompt)
        if self._watermark:
            # numpy is there wherever pictures are drawn, and nowhere else.
            from serve_app.watermark import marked

            pixels = marked(pixels)
        if not self._metadata:
            return encode(pixels, request.output)
        parameters = picture_parameters(
            request,
            index=index,
            model=self._model,
            scheduler_name=request.scheduler_name or self._scheduler_name,
        )
        return encode(pixels, request.output, parameters)
