"""`Decoding`: from the last step to pixels, between two ticks or beside them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from serve_app.engine.ledger import Ledger
from serve_app.engine.picture import Picture
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import GenerationFailed

log = logging.getLogger(__name__)

MAX_DECODE_ATTEMPTS = 3
"""Decodes of one picture that may run out of memory: what the others hold is often free a moment later."""


class Decoding:
    """Decodes pictures whose steps are done.

    Args:
        pipeline: Its capabilities say how many decodes may run beside the engine's thread.
        ledger: Of the engine.
    """

    def __init__(self, pipeline: StepPipeline, ledger: Ledger) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._slots = pipeline.capabilities.concurrent_decodes
        self._beside = (
            ThreadPoolExecutor(self._slots, thread_name_prefix="engine-decode") if self._slots else None
        )
        self._busy = 0  # threads beside that decode now; under the ledger's lock, as is the next
        self._stopping = False

    def stop(self) -> None:
        """Starts no more; does not wait for those under way."""
        with self._ledger.lock:
            self._stopping = True
        if self._beside is not None:
            self._beside.shutdown(wait=False, cancel_futures=True)

    def can_start(self) -> bool:
        """Whether a picture waits for its decode. Under the ledger's lock."""
        return self._ledger.scheduler.undecoded > 0

    def start(self) -> Picture | None:
        """Starts all decodes that may run beside.

        Returns:
            The picture for the engine's own thread, if any: the only one there is, which gets the whole device, or one
            that all those beside have no time for. Nothing is sooner done than a picture without steps left. At most
            one, so that decoding never stalls the others for longer.
        """
        ledger = self._ledger
        while True:
            with ledger.lock:
                picture = ledger.scheduler.next_to_decode()
                alone = picture is not None and sum(1 for _ in ledger.scheduler.pictures()) == 1
                if picture is None or self._beside is None or alone or self._busy == self._slots:
                    return picture
                self._set_busy(self._busy + 1)
            try:
                self._beside.submit(self._decode_beside, picture)
            except RuntimeError:  # stopping: whoever stops ends the pictures that are left
                return None

    def _decode_beside(self, first: Picture) -> None:
        """Decodes `first`, then what waits: it need not wait for the end of the engine's step."""
        picture: Picture | None = first
        while picture is not None:
            try:
                self.decode(picture)
            except Exception as error:  # the boundary of this thread: it ends this picture only
                log.exception("unexpected error in a decoder", extra=picture.log_fields)
                self._ledger.fail(
                    picture, GenerationFailed(f"unexpected {type(error).__name__} in the engine")
                )
            with self._ledger.lock:
                picture = None if self._stopping else self._ledger.scheduler.next_to_decode()
                if picture is None:
                    self._set_busy(self._busy - 1)

    def _set_busy(self, count: int) -> None:
        """Under the ledger's lock."""
        self._busy = count
        self._pipeline.decodes_beside(count)

    def decode(self, picture: Picture) -> None:
        """On the engine's thread or on a decoder's; the picture may be cancelled or too late meanwhile."""
        ledger, state = self._ledger, picture.state
        if state is None or picture.cancelled or picture.ended:
            return
        began = ledger.clock()
        try:
            pixels = self._pipeline.decode(state)
        except Exception as error:  # noqa: BLE001 - a pipeline may raise anything; it fails alone
            picture.decode_attempts += 1
            if self._pipeline.is_out_of_memory(error) and picture.decode_attempts < MAX_DECODE_ATTEMPTS:
                log.warning("out of memory while decoding %s: once more later", picture.shape)
                with ledger.lock:
                    ledger.scheduler.decode_later(picture)
            else:
                ledger.fail(picture, ledger.failure(picture, error, "decoding"))
            return
        ledger.finish(picture, pixels, ledger.clock() - began)
