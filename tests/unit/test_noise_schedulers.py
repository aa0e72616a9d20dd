"""Names of noise schedulers as clients write them."""

from __future__ import annotations

import pytest

from serve_app.noise_schedulers import NOISE_SCHEDULERS, find


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("euler", "euler"),
        ("Euler a", "euler_a"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("dpm++ 2m", "dpmpp_2m"),
        ("UniPC", "unipc"),
        ("DDIMScheduler", "ddim"),
        ("LCM", "lcm"),
        ("Heun", None),
        ("", None),
    ],
)
def test_find(text: str, name: str | None) -> None:
    assert find(text) == name


def test_every_label_finds_itself() -> None:
    for scheduler in NOISE_SCHEDULERS:
        assert find(scheduler.label) == scheduler.name
