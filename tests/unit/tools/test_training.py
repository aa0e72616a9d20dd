"""Training goes on after an interruption as if there had been none; the exported folder is a stock pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("skia", exc_type=ImportError)  # its wheel wants the system's libGL and libEGL
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tools.small_sdxl.architecture import new_text_encoders, new_unet, new_vae  # noqa: E402
from tools.small_sdxl.checkpoint import save_checkpoint  # noqa: E402
from tools.small_sdxl.export import adopt, export, load_pipeline, pack  # noqa: E402
from tools.small_sdxl.labels import LABELS, labels_of  # noqa: E402
from tools.small_sdxl.latents import PatchBasis, fit_basis, psnr  # noqa: E402
from tools.small_sdxl.muon import orthogonalise  # noqa: E402
from tools.small_sdxl.pool import patch_latents  # noqa: E402
from tools.small_sdxl.recipe import Recipe  # noqa: E402
from tools.small_sdxl.scenes import Figure, Scene  # noqa: E402
from tools.small_sdxl.sources import drawn_now, pictures_now  # noqa: E402
from tools.small_sdxl.text_training import TextSettings  # noqa: E402
from tools.small_sdxl.training import Part, Training  # noqa: E402
from tools.small_sdxl.unet_training import UnetSettings, UnetTrainer  # noqa: E402
from tools.small_sdxl.vae_training import VaeSettings, VaeTrainer  # noqa: E402
from tools.small_sdxl.vocabulary import encode, save_tokenizer, train_tokenizer  # noqa: E402
from tools.small_sdxl.workspace import Workspace  # noqa: E402


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run with everything but trained weights."""
    made = Workspace(tmp_path_factory.mktemp("run"))
    save_tokenizer(train_tokenizer(captions=300), made.tokenizer_folder)
    fit_basis(pictures=40).save(made.basis_file)
    torch.manual_seed(0)
    one, two = new_text_encoders()
    save_checkpoint({"one": one.state_dict(), "two": two.state_dict()}, made.text_file)
    return made


def _trainer(workspace: Workspace, steps: int) -> UnetTrainer:
    torch.manual_seed(1)
    settings = UnetSettings(batch=2, steps=steps, other_sizes={(16, 24): 0.3})
    source = drawn_now(workspace.tokenizer(), workspace.basis())
    return UnetTrainer(new_unet(), workspace.text_encoders(), source, settings)


def test_the_unet_resumes_to_the_same_state(workspace: Workspace, tmp_path: Path) -> None:
    straight = _trainer(workspace, 4)
    list(straight.run(tmp_path / "straight.pt"))
    first = _trainer(workspace, 4)
    for progress in first.run(tmp_path / "cut.pt"):
        if progress.step == 2:
            save_checkpoint(first.state(), tmp_path / "cut.pt")
            break
    resumed = _trainer(workspace, 4)
    steps = [progress.step for progress in resumed.run(tmp_path / "cut.pt")]
    assert steps == [3, 4]
    assert resumed.pictures == straight.pictures
    for one, other in zip(straight.unet.parameters(), resumed.unet.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    for one, other in zip(straight.average, resumed.average, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_vae_resumes_to_the_same_state(workspace: Workspace, tmp_path: Path) -> None:
    def trainer() -> VaeTrainer:
        torch.manual_seed(2)
        settings = VaeSettings("low", steps=4, batch=2, side=128)
        return VaeTrainer(new_vae(), workspace.basis(), pictures_now(workspace.tokenizer()), settings)

    straight = trainer()
    list(straight.run(tmp_path / "straight.pt"))
    first = trainer()
    for step, _, _ in first.run(tmp_path / "cut.pt"):
        if step == 2:
            save_checkpoint(first.state(), tmp_path / "cut.pt")
            break
    resumed = trainer()
    list(resumed.run(tmp_path / "cut.pt"))
    for one, other in zip(straight.weights, resumed.weights, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path)["step"] == 1


def test_latents_keep_nearly_all_of_a_picture(workspace: Workspace, tmp_path: Path) -> None:
    from tools.small_sdxl.drawing import render_small

    basis = workspace.basis()
    picture = render_small(Scene((Figure("cat"),), "meadow"))[None]
    latents = basis.encode(picture)
    assert latents.shape == (1, 16, 16, 16)
    assert psnr(basis.decode(latents), picture) > 25
    basis.save(tmp_path / "basis.json")
    assert (PatchBasis.load(tmp_path / "basis.json").encode(picture) == latents).all()


def test_labels_name_what_the_scene_says() -> None:
    scene = Scene((Figure("cat", "red", "left"), Figure("star", None, "right")), "sea", relation="beside")
    said = [names[index] for names, index in zip(LABELS.values(), labels_of(scene), strict=True)]
    assert said == ["cat", "red", "", "", "", "sea", "star", "", "beside", "", "", ""]
    alone = Scene((Figure("dog", None, "top", "small", "hat"),), None, 0, "rain", "dawn", "sepia")
    said = [names[index] for names, index in zip(LABELS.values(), labels_of(alone), strict=True)]
    assert said == ["dog", "", "top", "small", "hat", "", "", "", "", "rain", "dawn", "sepia"]


def test_latents_are_the_same_on_the_device(workspace: Workspace) -> None:
    from tools.small_sdxl.drawing import render_small

    basis = workspace.basis()
    small = render_small(Scene((Figure("frog"),), "beach"), 96, 64)[None]
    mean, encoder = torch.from_numpy(basis.mean), torch.from_numpy(basis.encoder)
    assert torch.allclose(
        patch_latents(torch.from_numpy(small), mean, encoder),
        torch.from_numpy(basis.encode(small)),
        atol=1e-5,
    )


def test_everything_trains_with_drawing_processes_and_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []

    def train(steps: int) -> None:
        recipe = Recipe(
            text=TextSettings(steps=2, batch=4),
            unet=UnetSettings(batch=2, steps=steps, other_sizes={(16, 24): 0.5}),
            vae={
                "low": VaeSettings("low", steps=1, batch=2),
                "encoder": VaeSettings("encoder", steps=1, batch=1),
            },
            polish=VaeSettings("polish", steps=1, batch=2),
        )
        run = Training(
            Workspace(tmp_path),
            recipe,
            torch.device("cpu"),
            1,
            lambda name, done, _: heard.append((name, done)),
        )
        run.run(set(Part) - {Part.TOKENIZER, Part.BASIS})

    save_tokenizer(workspace.tokenizer(), tmp_path / "tokenizer")
    workspace.basis().save(tmp_path / "basis.json")
    train(1)
    first = torch.load(tmp_path / "unet.pt", weights_only=False)
    train(2)
    second = torch.load(tmp_path / "unet.pt", weights_only=False)
    assert (first["step"], second["step"]) == (1, 2)
    assert {name for name, done in heard if done == 1} == {
        "text encoders", "UNet", "VAE, low", "VAE, encoder", "VAE, polish"
    }  # fmt: skip
    assert len((tmp_path / "unet.jsonl").read_text().splitlines()) == 4


def test_muon_makes_a_matrix_nearly_orthogonal() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 60)))
    assert (values > 0.5).all()
    assert (values < 1.4).all()


def test_the_export_is_a_stock_pipeline(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert export(workspace, folder) < 25_000_000
    pieces = pack(folder, tmp_path / "packed", 15_000_000)
    assert [piece.stat().st_size <= 15_000_000 for piece in pieces] == [True, True]
    pipeline = load_pipeline(folder)
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("a red circle", num_inference_steps=1, guidance_scale=1.0, generator=generator).images[
        0
    ]
    assert picture.size == (512, 512)
    words = "a red circle on green grass. 8k!"
    tokens = pipeline.tokenizer(words, padding="max_length", truncation=True).input_ids
    assert tokens == encode(workspace.tokenizer(), [words])[0]
    keys = json.loads((folder / "text_encoder" / "config.json").read_text())
    assert keys["model_type"] == "clip_text_model"
    adopt(folder, Workspace(tmp_path / "next"))
    again = Workspace(tmp_path / "next")
    exported = pipeline.unet.state_dict()
    assert all(torch.equal(exported[name], held) for name, held in again.unet().state_dict().items())
    trainer = UnetTrainer(
        new_unet(),
        again.text_encoders(),
        drawn_now(again.tokenizer(), workspace.basis()),
        UnetSettings(batch=1, steps=1, other_sizes={}),
    )
    assert [progress.step for progress in trainer.run(again.unet_file)] == [1]
