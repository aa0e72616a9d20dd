"""The model that ships: its files and its defaults. What it draws: `test_equals_stock`, `test_batch_invariance`."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from serve_app.model_source import locate_model, model_defaults
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings

FOLDER = MODELS_DIR / BUNDLED_MODEL


def test_it_is_small_and_in_half_precision() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 25_000_000
    for file in FOLDER.glob("*/*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_both_generations_of_transformers_read_it() -> None:
    for tokenizer in ("tokenizer", "tokenizer_2"):
        # 5 reads tokenizer.json, 4.57 the other two.
        vocabulary = json.loads((FOLDER / tokenizer / "vocab.json").read_text())
        assert len(vocabulary) > 1000
        assert (FOLDER / tokenizer / "merges.txt").is_file()
        assert (FOLDER / tokenizer / "tokenizer.json").is_file()
    for encoder in ("text_encoder", "text_encoder_2"):
        with safe_open(FOLDER / encoder / "model.safetensors", "pt") as tensors:
            names = list(tensors.keys())
        # 4.57 initialises at random what lacks the prefix; 5 reads both.
        assert all(name.startswith(("text_model.", "text_projection.")) for name in names)


def test_defaults_are_those_of_a_few_step_model() -> None:
    source = locate_model(PoolSettings())
    assert source.folder == FOLDER
    defaults = model_defaults(FOLDER, PoolSettings())
    assert (defaults.width, defaults.height) == (512, 512)
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (4, 0.0)


def test_the_card_is_there() -> None:
    card = (FOLDER / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license: apache-2.0" in card
    assert Path(FOLDER / "model_index.json").is_file()
