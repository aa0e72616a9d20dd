"""What people are told."""

from __future__ import annotations

import pytest

from gradio_ui.client import ServiceError
from gradio_ui.words import duration, notice, state


@pytest.mark.parametrize(
    ("error", "text", "field", "wait"),
    [
        (ServiceError("no connection to x"), "The service does not answer", None, None),
        (
            ServiceError("1000 jobs are unfinished, and no more may be", status=429, retry_after_s=4.2),
            "The service is full: 1000 jobs are unfinished, and no more may be.",
            None,
            5,
        ),
        (
            ServiceError("at most 5 pictures", status=429, code="rate_limit_exceeded", retry_after_s=9),
            "At most 5 pictures.",
            None,
            9,
        ),
        (
            ServiceError("no such pictures here", status=500, code="picture_refused"),
            "No such pictures here. Another prompt or seed may be drawn.",
            None,
            None,
        ),
        (
            ServiceError("600 s are over", status=504, code="deadline_exceeded"),
            "It took too long: 600 s are over.",
            None,
            None,
        ),
        (
            ServiceError("width: 500 is not a multiple of 32 pixels", status=422, field="width"),
            "Size: 500 is not a multiple of 32 pixels.",
            "width",
            None,
        ),
        (
            ServiceError("prompt: too long", status=422, field="picture.prompt"),
            "Prompt:",
            "picture.prompt",
            None,
        ),
        (ServiceError("No replica", status=503), "cannot draw yet: no replica. Try again", None, None),
        (ServiceError("it failed", status=500), "Drawing failed: it failed.", None, None),
        (
            ServiceError("gone", status=404, code="not_found"),
            "the same seed gives the same picture",
            None,
            None,
        ),
    ],
)
def test_every_error_says_what_can_be_done(
    error: ServiceError, text: str, field: str | None, wait: int | None
) -> None:
    said = notice(error)
    assert text in said.text
    assert (said.field, said.retry_after_s) == (field, wait)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ({"state": "queued", "position": 3}, "Waiting, 3 before it"),
        ({"state": "queued", "position": 0}, "Next in line"),
        ({"state": "queued", "message": "The queue is full."}, "Waiting: the queue is full"),
        ({"state": "starting"}, "Starting"),
        ({"state": "starting", "position": 2}, "Waiting, 2 before it"),
        (
            {"state": "starting", "message": "starting an accelerator of pool g8i"},
            "Starting an accelerator of pool g8i",
        ),
        ({"state": "running", "step": 2, "num_inference_steps": 4}, "Step 2 of 4"),
        ({"state": "running", "step": 2, "num_inference_steps": 4, "eta_s": 12.2}, "Step 2 of 4, 12 s left"),
        ({"state": "running", "step": 4, "num_inference_steps": 4}, "Finishing"),
        ({"state": "thawing"}, "Thawing"),
    ],
)
def test_every_state_has_a_line(job: dict[str, object], line: str) -> None:
    assert state(job) == line


def test_durations_are_short() -> None:
    assert [duration(value) for value in (0.0421, 3.21, 42.4, 200)] == ["0.042 s", "3.2 s", "42 s", "3 min"]
