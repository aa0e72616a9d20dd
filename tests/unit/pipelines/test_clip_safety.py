"""diffusers' own safety checker behind the hook, with a tiny one in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from serve_app.errors import ConfigurationError
from serve_app.pipelines import clip_safety
from serve_app.result import Pixels
from serve_app.safety import load_checker
from serve_app.settings import SafetySettings

RED = Pixels(40, 24, bytes((200, 30, 30)) * (40 * 24))


def model(folder: Path, concept_threshold: float) -> Path:
    """A model folder with a checker whose concepts are as near as the cosine `concept_threshold` says."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config=sizes, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(concept_threshold)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder / "feature_extractor")
    return folder


@pytest.mark.parametrize(("threshold", "refused"), [(-2.0, True), (2.0, False)])
def test_what_is_near_a_concept_is_refused(tmp_path: Path, threshold: float, refused: bool) -> None:
    folder = model(tmp_path, threshold)
    checker = load_checker(
        SafetySettings(
            checker="serve_app.pipelines.clip_safety:load",
            options={"model": str(folder), "subfolder": "safety_checker", "local_files_only": True},
        )
    )
    assert (checker.reason_to_refuse(RED, "a fox") is not None) is refused


def test_it_takes_one_core_from_those_that_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = clip_safety.load(str(model(tmp_path, 2.0)), subfolder="safety_checker", local_files_only=True)
    forward, threads = checker._model.forward, []

    def counted(**inputs: object) -> object:
        threads.append(torch.get_num_threads())
        return forward(**inputs)

    monkeypatch.setattr(checker._model, "forward", counted)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        checker.reason_to_refuse(RED, "a fox")
        assert (threads, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("missing", ["all", "safetensors"])
def test_a_checker_that_is_not_there_or_pickled_is_refused(tmp_path: Path, missing: str) -> None:
    if missing == "safetensors":
        model(tmp_path, 2.0)
        (weights,) = (tmp_path / "safety_checker").glob("*.safetensors")
        torch.save({}, weights.with_name("pytorch_model.bin"))
        weights.unlink()
    settings = SafetySettings(
        checker="serve_app.pipelines.clip_safety:load",
        options={"model": str(tmp_path), "subfolder": "safety_checker", "local_files_only": True},
    )
    with pytest.raises(ConfigurationError, match="no safety checker can be loaded"):
        load_checker(settings)
