"""`Decoding`: from the last step to pixels, on the engine's thread or beside it."""

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

    Where decodes may run beside the engine's thread, a call more than those may run at once: one step and all of them,
    or, while nothing can make a step or several pictures wait for it, one decode more in its place. The engine's
    thread then waits for the first that ends instead of decoding itself, so that no picture's steps wait for the end of
    another one's decode while a part of the device has nothing to do.

    Args:
        pipeline: Its capabilities say how many decodes may run beside a step.
        ledger: Of the engine.
    """

    def __init__(self, pipeline: StepPipeline, ledger: Ledger) -> None:
        self._pipeline = pipeline
        self._ledger = ledger
        self._at_once = 1 + pipeline.capabilities.concurrent_decodes  # calls of the pipeline
        self._beside = (
            ThreadPoolExecutor(self._at_once, thread_name_prefix="engine-decode")
            if self._at_once > 1
            else None
        )
        self._busy = 0  # threads beside that decode now; under the ledger's lock, as is the next
        self._stopping = False

    def stop(self) -> None:
        """Starts no more; does not wait for those under way."""
        with self._ledger.lock:
            self._stopping = True
        if self._beside is not None:
            self._beside.shutdown(wait=False, cancel_futures=True)

    def leaves_room(self) -> bool:
        """Whether the engine's thread may call the pipeline now. Under the ledger's lock."""
        return self._busy < self._at_once

    def can_start(self) -> bool:
        """Whether `start` would find a picture. Under the ledger's lock."""
        return self.leaves_room() and self._may_take(self._busy)

    def start(self) -> Picture | None:
        """Starts all decodes that may run beside.

        Returns:
            The picture for the engine's own thread, if any: where none run beside, or the only picture there is, which
            gets the whole device. At most one, so that decoding never stalls the others for longer.
        """
        ledger = self._ledger
        while True:
            with ledger.lock:
                if not self.can_start():
                    return None
                picture = ledger.scheduler.next_to_decode()
                alone = sum(1 for _ in ledger.scheduler.pictures()) == 1
                if picture is None or self._beside is None or alone:
                    return picture
                self._set_busy(self._busy + 1)
            try:
                self._beside.submit(self._decode_beside, picture)
            except RuntimeError:  # stopping: whoever stops ends the pictures that are left
                return None

    def _may_take(self, others: int) -> bool:
        """Whether a picture waits for a decode, and may have it beside `others`. Under the ledger's lock."""
        waiting = self._ledger.scheduler.undecoded
        if self._beside is None or others < self._at_once - 1:
            return waiting > 0
        # The last place is for a step, unless one picture more waits than will find a place when a decode ends.
        return waiting > int(self._ledger.scheduler.can_step())

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
                go_on = not self._stopping and self._may_take(self._busy - 1)
                picture = self._ledger.scheduler.next_to_decode() if go_on else None
                if picture is None:
                    self._set_busy(self._busy - 1)
                    self._ledger.lock.notify_all()  # the engine's thread may have waited for this place

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
