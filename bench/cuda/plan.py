"""What is measured: `Subject`, `Task` and the plan that lists them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEDULERS = ("euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "unipc", "lcm")
GUIDANCE_SCALE = 5.0
SECTIONS = ("correctness", "pictures", "rows", "ablation")

OURS, COMPILED, PLAIN, TUNED, REFERENCE = "ours", "ours-compiled", "plain", "tuned", "reference"


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        kind: ``latents`` (keeps the last latents), ``picture`` (seconds of one), ``step`` (milliseconds of one),
            ``decode`` (milliseconds of one), or ``throughput`` (pictures per second, drawn together).
        side: Pixels of the square picture's side.
        steps: Denoising steps of a picture.
        rows: Rows of a step; guided pictures have two.
        guided: Whether pictures are guided.
        scheduler: Noise scheduler; None is the model's own.
    """

    kind: str
    side: int
    steps: int = 1
    rows: int = 1
    guided: bool = False
    scheduler: str | None = None

    @property
    def key(self) -> str:
        """Its name in the results."""
        parts = [self.kind, str(self.side), f"{self.steps}steps", f"{self.rows}rows"]
        parts += ["guided" if self.guided else "unguided", *([self.scheduler] if self.scheduler else [])]
        return " ".join(parts)


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: Unique.
        kind: ``ours``, or ``plain``, ``tuned``, ``reference`` of diffusers.
        cuda: `CudaSettings` of ours that differ from the defaults.
        dtype: As `PoolSettings.dtype`.
    """

    name: str
    kind: str = OURS
    cuda: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        large: Side of a picture that fills the device.
        small: Side of one that does not.
        steps: Of a guided picture.
        throughput_steps: Of pictures drawn together.
        few_steps: Of a distilled model.
        rows: Row counts of the sweep, ascending.
        schedulers: Compared with diffusers.
        repeats: Timed calls of each.
    """

    large: int = 1024
    small: int = 512
    steps: int = 30
    throughput_steps: int = 20
    few_steps: int = 4
    rows: tuple[int, ...] = (2, 4, 8, 16, 32)
    schedulers: tuple[str, ...] = SCHEDULERS
    repeats: int = 10


TINY = Scale(
    large=128,
    small=64,
    steps=3,
    throughput_steps=2,
    few_steps=2,
    rows=(2, 4),
    schedulers=("euler", "unipc"),
    repeats=2,
)

FASTEST = Subject("fp8, skip_guidance_after 0.8", cuda={"fp8": True, "skip_guidance_after": 0.8})
"""Both options that change pictures."""

ABLATIONS: tuple[Subject, ...] = (
    Subject("no graphs", cuda={"max_graphs": 0}),
    Subject("no channels_last", cuda={"channels_last": False}),
    Subject("no fused_layers", cuda={"fused_layers": False}),
    Subject("no fused_qkv", cuda={"fused_qkv": False}),
    Subject("no text_states_once", cuda={"text_states_once": False}),
    Subject("attention flash", cuda={"attention": "flash"}),
    Subject("attention cudnn", cuda={"attention": "cudnn"}),
    Subject("vae float32", cuda={"vae_dtype": "float32"}),
    Subject("bfloat16", dtype="bfloat16"),
    Subject("skip_guidance_after 0.8", cuda={"skip_guidance_after": 0.8}),
    Subject("vae_tiling_above_px 512x512", cuda={"vae_tiling_above_px": 512 * 512}),
    Subject("cpu_offload encoders", cuda={"cpu_offload": "encoders"}),
    Subject("cpu_offload all", cuda={"cpu_offload": "all"}),
    Subject("compile blocks", cuda={"compile": "blocks"}),
    Subject("fp8", cuda={"fp8": True}),
    FASTEST,
)


def plan(
    sections: Sequence[str], scale: Scale, *, compiled: bool, ablations: Sequence[Subject] = ABLATIONS
) -> Iterator[tuple[Subject, list[Task]]]:
    """Every subject with all its tasks, the most wanted first.

    Args:
        sections: Of `SECTIONS`.
        scale: Sizes and counts.
        compiled: Whether subjects that start a compiler take part.
        ablations: Subjects of the section ``ablation``.
    """
    pictures = [
        Task("picture", scale.large, scale.steps, 2, guided=True),
        Task("picture", scale.large, scale.throughput_steps, 2, guided=True),
        Task("picture", scale.small, scale.few_steps),
    ]
    single = [
        Task("step", scale.large, rows=2, guided=True),
        Task("step", scale.small, rows=1),
        Task("decode", scale.large),
        Task("decode", scale.small),
    ]
    latents = [
        Task("latents", scale.small, scale.steps, 2 if guided else 1, guided, scheduler)
        for guided in (True, False)
        for scheduler in scale.schedulers
    ]
    together = [
        task
        for rows in scale.rows
        for task in (
            Task("step", scale.large, rows=rows, guided=True),
            Task("step", scale.small, rows=rows, guided=True),
            Task("throughput", scale.large, scale.throughput_steps, rows, guided=True),
        )
    ]
    image = [Task("latents", scale.large, scale.steps, 2, guided=True)]
    wanted: dict[str, list[Task]] = {name: [] for name in (OURS, COMPILED, REFERENCE, PLAIN, TUNED)}
    if "correctness" in sections:
        for name in (OURS, REFERENCE, PLAIN):
            wanted[name] += latents
    if "pictures" in sections:
        for name in (OURS, COMPILED, PLAIN, TUNED):
            wanted[name] += pictures
        for name in (OURS, COMPILED):
            wanted[name] += single
    if "ablation" in sections:
        for name in (OURS, COMPILED):
            wanted[name] += image + single + pictures[:1]
    subjects = {
        OURS: Subject(OURS),
        COMPILED: Subject(COMPILED, cuda={"compile": "whole"}),
        REFERENCE: Subject(REFERENCE, REFERENCE, dtype="float32"),
        PLAIN: Subject(PLAIN, PLAIN),
        TUNED: Subject(TUNED, TUNED, dtype="bfloat16"),
    }
    for name in (OURS, REFERENCE, PLAIN, COMPILED, TUNED):
        if wanted[name] and (compiled or name not in (COMPILED, TUNED)):
            yield subjects[name], list(dict.fromkeys(wanted[name]))
    if "rows" in sections:  # later and in processes of their own: larger shapes take long to make ready
        yield subjects[OURS], together
        for subject in (subjects[PLAIN], FASTEST):
            yield subject, [task for task in together if task.kind == "throughput"]
    if "rows" in sections and compiled:
        # One each: all in one process would be a long time in the compiler before the first figure.
        for rows in reversed(scale.rows):
            tasks = [task for task in together if task.rows == rows and task.side == scale.large]
            yield Subject(compiled_rows(rows), cuda={"compile": "whole"}), tasks
    if "ablation" in sections:
        for subject in ablations:
            if compiled or subject.cuda.get("compile", "off") == "off":
                few = pictures[2:] if subject.cuda.get("fp8") else []
                yield subject, image + single + pictures[:1] + few


def compiled_rows(rows: int) -> str:
    """The subject that was compiled for so many rows alone."""
    return f"{COMPILED}, {rows} rows"


def as_json(subject: Subject, tasks: Sequence[Task]) -> dict[str, Any]:
    """For the process that measures."""
    return {"subject": asdict(subject), "tasks": [asdict(task) for task in tasks]}


def from_json(content: dict[str, Any]) -> tuple[Subject, list[Task]]:
    """What `as_json` wrote."""
    return Subject(**content["subject"]), [Task(**task) for task in content["tasks"]]
