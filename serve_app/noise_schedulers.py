"""The names of noise schedulers a request may ask for, without torch or diffusers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseSchedulerName:
    """One noise scheduler as people call it.

    Attributes:
        name: Canonical name in requests.
        label: What A1111 calls it.
        aliases: Other spellings; compared like `find` does.
    """

    name: str
    label: str
    aliases: tuple[str, ...] = ()


NOISE_SCHEDULERS: tuple[NoiseSchedulerName, ...] = (
    NoiseSchedulerName("euler", "Euler", ("k_euler", "EulerDiscreteScheduler")),
    NoiseSchedulerName(
        "euler_a", "Euler a", ("k_euler_a", "euler ancestral", "EulerAncestralDiscreteScheduler")
    ),
    NoiseSchedulerName("ddim", "DDIM", ("DDIMScheduler",)),
    NoiseSchedulerName("dpmpp_2m", "DPM++ 2M", ("k_dpmpp_2m", "DPMSolverMultistepScheduler")),
    NoiseSchedulerName("dpmpp_2m_karras", "DPM++ 2M Karras", ("k_dpmpp_2m_ka",)),
    NoiseSchedulerName("unipc", "UniPC", ("UniPCMultistepScheduler",)),
    NoiseSchedulerName("lcm", "LCM", ("LCMScheduler",)),
)


def sampler_and_schedule(name: str) -> tuple[str, str]:
    """A1111's two names, sampler and schedule type, of a canonical name; an unknown name stays as it is."""
    label = next((known.label for known in NOISE_SCHEDULERS if known.name == name), name)
    sampler, _, schedule = label.rpartition(" ")
    return (sampler, schedule) if schedule == "Karras" else (label, "Automatic")


def _plain(text: str) -> str:
    return text.casefold().replace("++", "pp").replace(" ", "").replace("_", "").replace("-", "")


def find(text: str) -> str | None:
    """The canonical name for a name, label or alias, whatever its case and spaces; None if unknown."""
    wanted = _plain(text)
    for scheduler in NOISE_SCHEDULERS:
        if wanted in {_plain(known) for known in (scheduler.name, scheduler.label, *scheduler.aliases)}:
            return scheduler.name
    return None
