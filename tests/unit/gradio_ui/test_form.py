"""What the form offers, and what its values become."""

from __future__ import annotations

from typing import Any

import pytest

from gradio_ui.client import ServiceError
from gradio_ui.fake_client import FAKE_POOL
from gradio_ui.form import FormValues, choices, parse_seed, parse_size


def pool(name: str, model: str = "small-sdxl", **changes: Any) -> dict[str, Any]:
    facts = {**FAKE_POOL, "pool": name, "model": model}
    for key in ("defaults", "capabilities"):
        facts[key] = {**FAKE_POOL[key], **changes.pop(key, {})}
    return {**facts, **changes}


def test_defaults_and_limits_are_the_models_own() -> None:
    turbo = pool("cpu", "turbo")
    base = pool(
        "gpu",
        "base",
        defaults={"width": 1024, "height": 1024, "num_inference_steps": 30, "guidance_scale": 5.0},
        capabilities={"max_num_inference_steps": 60},
    )
    offer = choices([turbo, base])
    assert (offer.model, offer.steps, offer.guidance, offer.size) == ("turbo", 4, 0.0, "512x512")
    offer = choices([turbo, base], model="base")
    assert (offer.steps, offer.guidance, offer.size, offer.max_steps) == (30, 5.0, "1024x1024", 60)
    assert choices([turbo, base], model="turbo", pool="gpu").model == "base"
    assert choices([turbo, base], model="gone").model == "turbo"
    assert offer.models == ("turbo", "base")
    assert choices([]).model == ""


def test_sizes_fit_what_the_pool_draws() -> None:
    sizes = [value for _, value in choices([pool("a")]).sizes]
    assert sizes[0] == "512x512"
    assert "1024x1024" in sizes
    for size in sizes:
        width, height = parse_size(size)
        assert width is not None
        assert height is not None
        assert width % 32 == 0
        assert height % 32 == 0
    small = pool("a", capabilities={"max_side": 700, "max_pixels": 512 * 512})
    for size in [value for _, value in choices([small]).sizes]:
        width, height = parse_size(size)
        assert max(width or 0, height or 0) <= 700
        assert (width or 0) * (height or 0) <= 512 * 512
    fixed = pool("a", capabilities={"fixed_sizes": [[512, 512], [768, 512]]})
    assert choices([fixed]).sizes == (("512 × 512 square", "512x512"), ("768 × 512 landscape", "768x512"))


def test_a_pool_that_cannot_guide_offers_no_guidance() -> None:
    unguided = pool("neuron", capabilities={"guidance": False})
    assert not choices([unguided]).guidance_possible
    assert choices([unguided, pool("cpu")]).guidance_possible
    assert not choices([unguided, pool("cpu")], pool="neuron").guidance_possible


def test_only_pools_that_can_draw_are_offered() -> None:
    offer = choices([pool("a", state="failed"), pool("b", state="asleep")])
    assert [name for _, name in offer.pools] == ["b"]


def test_an_order_holds_what_was_set_and_nothing_else() -> None:
    order = FormValues(
        "a cat", size="768 × 512", steps=8.0, guidance=1.5, seed=" 0 ", num_images=2.0, file_format="webp"
    ).order()
    assert order == {
        "prompt": "a cat",
        "width": 768,
        "height": 512,
        "num_inference_steps": 8,
        "guidance_scale": 1.5,
        "seed": 0,
        "num_images": 2,
        "format": "webp",
        "preview_every": 1,
    }
    assert "seed" not in FormValues("a cat").order()
    assert "width" not in FormValues("a cat").order()
    assert FormValues("a cat", model="turbo").order()["model"] == "turbo"
    assert "model" not in FormValues("a cat", model="turbo", pool="gpu").order()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (FormValues(" \n"), "prompt"),
        (FormValues("x", seed="-1"), "seed"),
        (FormValues("x", seed="4294967296"), "seed"),
        (FormValues("x", seed="²"), "seed"),
        (FormValues("x", size="wide"), "width"),
        (FormValues("x", size="512x"), "width"),
    ],
)
def test_a_wrong_value_names_its_field(values: FormValues, field: str) -> None:
    with pytest.raises(ServiceError) as caught:
        values.order()
    assert caught.value.field == field


def test_seeds_and_sizes_may_be_left_out() -> None:
    assert parse_seed("") is None
    assert parse_size("") == (None, None)
    assert parse_seed(str(2**32 - 1)) == 2**32 - 1
