"""``bench.cuda`` on a CPU and a tiny model: what it measures, that it goes on where it was, and what it concludes."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from bench.cuda import tables
from bench.cuda.__main__ import main
from bench.cuda.layers import KINDS, Networks, relative_error
from bench.cuda.layers import main as layers
from bench.cuda.measuring import LOADING, run
from bench.cuda.plan import (
    ABLATIONS,
    COMPILED,
    FASTEST,
    OURS,
    PLAIN,
    REFERENCE,
    SCHEDULERS,
    SECTIONS,
    TINY,
    TUNED,
    Scale,
    Subject,
    Task,
    as_json,
    from_json,
    plan,
)
from bench.cuda.results import Results
from bench.cuda.sides import Float32Noise, timed_ms
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.settings import CudaSettings

OPTIONS = {"device": "cpu"}
QUIET = Console(quiet=True)


def order(folder: Path, model: Path, subject: Subject, tasks: list[Task], **changes: Any) -> dict[str, Any]:
    values = {
        "folder": str(folder),
        "options": OPTIONS,
        "model": str(model),
        "device": "cpu",
        "deadline": time.time() + 600,
        "repeats": 2,
    }
    return as_json(subject, tasks) | values | changes


class TestPlan:
    def test_every_noise_scheduler_is_compared(self) -> None:
        assert set(SCHEDULERS) == {scheduler.name for scheduler in NOISE_SCHEDULERS}
        tasks = {subject.name: tasks for subject, tasks in plan(["correctness"], Scale(), compiled=True)}
        assert set(tasks) == {OURS, PLAIN, REFERENCE}
        assert tasks[OURS] == tasks[PLAIN] == tasks[REFERENCE]
        assert {(task.scheduler, task.guided) for task in tasks[OURS]} == {
            (name, guided) for name in SCHEDULERS for guided in (True, False)
        }

    def test_every_option_of_the_settings_is_tried(self) -> None:
        tried = {option for subject in ABLATIONS for option in subject.cuda}
        shapes = {"warm_up_sizes", "warm_up_rows"}  # what the tasks' own shapes decide
        assert tried | shapes == set(CudaSettings.model_fields)
        for subject in ABLATIONS:
            CudaSettings.model_validate(subject.cuda)

    def test_subjects_and_tasks_have_names_of_their_own(self) -> None:
        work = list(plan(SECTIONS, Scale(), compiled=True))
        names = [subject.name for subject, _ in work]
        assert names[:3] == [OURS, REFERENCE, PLAIN]
        # What takes long, row counts, comes after every subject's pictures, in processes of its own.
        assert {name for name in names if names.count(name) > 1} == {OURS, PLAIN, FASTEST.name}
        assert len(set(names)) == len(names) - 3
        again = len(names) - 1 - names[::-1].index(OURS)
        assert again > names.index(TUNED)
        assert {task.kind for task in work[again][1]} == {"step", "throughput"}
        for subject, tasks in work:
            assert len({task.key for task in tasks}) == len(tasks)
            assert from_json(as_json(subject, tasks)) == (subject, tasks)

    def test_no_compiler_is_started_when_none_may_be(self) -> None:
        work = list(plan(SECTIONS, Scale(), compiled=False))
        assert TUNED not in {subject.name for subject, _ in work}
        assert not any(COMPILED in subject.name for subject, _ in work)
        assert all(subject.cuda.get("compile", "off") == "off" for subject, _ in work)

    def test_the_issues_figures_are_measured(self) -> None:
        tasks = {task.key for subject, tasks in plan(SECTIONS, Scale(), compiled=True) for task in tasks}
        assert "picture 1024 30steps 2rows guided" in tasks
        assert "picture 512 4steps 1rows unguided" in tasks
        assert "throughput 1024 20steps 16rows guided" in tasks


class TestMeasuring:
    def test_ours_and_diffusers_agree_and_every_task_has_figures(
        self, tmp_path: Path, tiny_sdxl: Path
    ) -> None:
        latents = Task("latents", 64, 2, 2, guided=True, scheduler="unipc")
        singles = [Task("step", 64, rows=2, guided=True), Task("decode", 64)]
        pictures = [Task("picture", 64, 1), Task("throughput", 64, 1, 4, guided=True)]
        run(order(tmp_path, tiny_sdxl, Subject(OURS), [latents, *singles, *pictures]))
        for name in (REFERENCE, PLAIN):
            run(order(tmp_path, tiny_sdxl, Subject(name, name, dtype="float32"), [latents]))
        results = Results(tmp_path, OPTIONS)
        for task, figure in zip(
            (*singles, *pictures), ("step_ms", "decode_ms", "picture_s", "pictures_per_s"), strict=True
        ):
            figures = results.get(OURS, task.key)
            assert figures is not None
            assert float(figures[figure]) > 0, figures
        assert "load_s" in (results.get(OURS, LOADING) or {})
        scale = Scale(small=64, steps=2, schedulers=("unipc",))
        ((_, ours, plain, well),) = tables.correct(results, scale)
        assert well
        assert 0 < ours < 1e-4
        assert plain < 1e-4

    def test_what_is_done_is_not_done_again_and_time_is_kept(self, tmp_path: Path, tiny_sdxl: Path) -> None:
        done, late = Task("decode", 64), Task("decode", 128)
        Results(tmp_path, OPTIONS).put(OURS, done.key, {"decode_ms": 123.0})
        run(order(tmp_path, tiny_sdxl, Subject(OURS), [done]))
        run(order(tmp_path, tiny_sdxl, Subject(OURS), [late], deadline=time.time() - 1))
        results = Results(tmp_path, OPTIONS)
        assert results.get(OURS, done.key) == {"decode_ms": 123.0}
        assert results.get(OURS, late.key) is None

    def test_a_failure_is_told_and_ends_nothing_else(self, tmp_path: Path, tiny_sdxl: Path) -> None:
        impossible, possible = Task("decode", 64, scheduler="none such"), Task("decode", 64)
        run(order(tmp_path, tiny_sdxl, Subject(OURS), [impossible, possible]))
        run(order(tmp_path, tiny_sdxl, Subject("fp8", cuda={"fp8": True}, dtype="float32"), [possible]))
        results = Results(tmp_path, OPTIONS)
        assert "error" in (results.get(OURS, impossible.key) or {})
        assert "decode_ms" in (results.get(OURS, possible.key) or {})
        assert "dtype auto or bfloat16" in str((results.get("fp8", possible.key) or {})["skipped"])
        scale = Scale(large=64, small=64)
        told = io.StringIO()
        assert tables.show(results, scale, Console(file=told, width=200), [Subject("fp8")])
        assert "fp8 was left out" in told.getvalue()
        results.put(OURS, Task("decode", 64).key, {"error": "RuntimeError: no"})
        assert not tables.show(results, scale, QUIET, [Subject("fp8")])
        results.forget_failures()
        assert results.get("fp8", possible.key) is None

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_diffusers_starts_from_the_same_noise_in_any_type(self, dtype: torch.dtype) -> None:
        def noise(dtype: torch.dtype) -> torch.Tensor:
            return torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7), dtype=dtype)

        with Float32Noise():
            rounded, other = noise(dtype), torch.zeros(2, dtype=dtype)
        assert torch.equal(rounded, noise(torch.float32).to(dtype))
        assert (rounded.dtype, other.dtype) == (dtype, dtype)

    def test_the_first_calls_are_left_out(self) -> None:
        calls = 0

        def call() -> None:
            nonlocal calls
            calls += 1
            time.sleep(0.05 if calls <= 2 else 0.0)

        times = timed_ms(call, torch.device("cpu"), 4, warm_ups=2)
        assert (calls, len(times)) == (6, 4)
        assert max(times) < 50


class TestConclusions:
    @pytest.mark.parametrize(
        ("ours", "plain", "well"),
        [
            (0.01, 0.01, True),
            (0.014, 0.01, True),
            (0.02, 0.01, False),
            (9e-4, 1e-6, True),
            (0.2, 0.6, False),
            (float("nan"), 0.01, False),
        ],
    )
    def test_ours_may_not_be_farther_off_than_diffusers(
        self, tmp_path: Path, ours: float, plain: float, well: bool
    ) -> None:
        scale = Scale(schedulers=("euler",))
        results = Results(tmp_path, OPTIONS)
        right = np.ones((1, 4, 8, 8), dtype=np.float32)
        for subject, tasks in plan(["correctness"], scale, compiled=True):
            off = {OURS: ours, PLAIN: plain, REFERENCE: 0.0}[subject.name]
            for task in tasks:
                results.put_latents(subject.name, task.key, right * (1 + np.float32(off)), bytes(12))
        assert [row[3] for row in tables.correct(results, scale)] == [well, well]
        assert tables.show(results, scale, QUIET, ABLATIONS) is well

    def test_aims_are_told_as_reached_or_missed(self, tmp_path: Path) -> None:
        results = Results(tmp_path, OPTIONS)
        for subject, tasks in plan(["pictures", "rows"], Scale(), compiled=True):
            for task in tasks:
                results.put(subject.name, task.key, {"picture_s": 0.5, "pictures_per_s": 2.5, "step_ms": 1.0})
        told = io.StringIO()
        tables.show_aims(results, Scale(), Console(file=told, width=200))
        lines = [line.split() for line in told.getvalue().splitlines()[1:4]]
        # The options that change pictures are told apart; single pictures with them are in another section.
        assert [(line.count("reached"), line.count("missed")) for line in lines] == [(1, 0), (0, 1), (2, 0)]
        results.put(FASTEST.name, Task("picture", 512, 4).key, {"picture_s": 0.025})
        told = io.StringIO()
        tables.show_aims(results, Scale(), Console(file=told, width=200))
        assert told.getvalue().splitlines()[2].split()[-4:] == ["0.500", "missed", "0.025", "reached"]

    def test_results_of_other_options_are_not_mixed(self, tmp_path: Path) -> None:
        Results(tmp_path, OPTIONS).put(OURS, "decode", {"decode_ms": 1.0})
        with pytest.raises(ValueError, match="other options"):
            Results(tmp_path, {"device": "cuda"})


class TestCommandLine:
    @pytest.fixture
    def cli(self) -> typer.Typer:
        app = typer.Typer()
        app.command()(main)
        return app

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
    def test_without_a_device_it_says_so_and_ends_well(self, cli: typer.Typer, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["--out", str(tmp_path)])
        assert done.exit_code == 0
        assert "no CUDA device" in done.output
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "line",
        [["--section", "all"], ["--device", "tpu"], ["--rows", "3"], ["--ablation", "none such"]],
        ids=str,
    )
    def test_what_it_does_not_know_is_refused(
        self, cli: typer.Typer, tmp_path: Path, line: list[str]
    ) -> None:
        assert CliRunner().invoke(cli, [*line, "--out", str(tmp_path)]).exit_code == 2

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_the_whole_way_on_a_cpu(
        self, cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.cuda.__main__.TINY", Scale(**{**vars(TINY), "schedulers": ("euler",)}))
        line = [
            "--device",
            "cpu",
            "--tiny",
            "--no-compiled",
            "--section",
            "correctness",
            "--out",
            str(tmp_path),
        ]
        none = CliRunner().invoke(cli, [*line, "--budget-s", "0"])
        assert none.exit_code == 0
        assert "run the same line again" in none.output
        whole = CliRunner().invoke(cli, line)
        assert whole.exit_code == 0, whole.output
        assert "WORSE" not in whole.output
        assert "our error" in whole.output
        again = CliRunner().invoke(cli, line)
        assert again.exit_code == 0
        assert "measurements" not in again.output, "nothing was left to do"


class TestLayers:
    def test_all_kinds_answer_what_float32_does_as_far_as_their_types_can(self) -> None:
        with torch.inference_mode():
            networks = Networks(torch.device("cpu"), "tiny")
            told = networks.inputs(2, 16)
            right = networks.step("float32")(told)
            errors = {kind: relative_error(networks.step(kind)(told), right) for kind in KINDS}
        assert errors["diffusers' layers"] < 5e-3
        assert errors["fused_layers"] < 1.5 * errors["diffusers' layers"]
        assert errors["fused_layers"] < errors["fp8"] < 0.1

    def test_the_command_tells_every_kind_or_that_there_is_no_device(self) -> None:
        app = typer.Typer()
        app.command()(layers)
        done = CliRunner().invoke(
            app, ["--device", "cpu", "--tiny", "--repeats", "1"], env={"COLUMNS": "160"}
        )
        assert done.exit_code == 0, done.output
        rows = [
            line.split() for line in done.output.splitlines() if line.strip().startswith(("step", "decode"))
        ]
        assert len(rows) == len(KINDS) + 2
        assert all(float(row[-1]) > 0 for row in rows)
        if not torch.cuda.is_available():
            assert "no CUDA device" in CliRunner().invoke(app, []).output
