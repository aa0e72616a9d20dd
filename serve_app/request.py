"""The internal types of the way in, free of torch, Ray and HTTP.

A wire format makes a `RequestDraft` (what the client said; ``None`` where it said nothing). The router picks a
pool, and `RequestDraft.for_pool` fills the gaps from that pool's model, checks it against the pool's
capabilities, and gives the `GenerationRequest` that crosses the handle. Back comes what is in `serve_app.result`.
"""

from __future__ import annotations

import secrets
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum

from serve_app.capabilities import PoolFacts
from serve_app.errors import UnsupportedRequest
from serve_app.limits import MAX_SEED
from serve_app.noise_schedulers import find


class Priority(StrEnum):
    """Who goes first when rows are short."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class ImageFormat(StrEnum):
    """File formats a picture can be encoded in."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpeg"

    @property
    def media_type(self) -> str:
        """MIME type, e.g. ``image/png``."""
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How finished pixels become a file.

    Attributes:
        format: File format.
        quality: 1..100 for WebP and JPEG; ignored by PNG.
    """

    format: ImageFormat = ImageFormat.PNG
    quality: int = 90


traceparent_here: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""W3C trace context of the HTTP request being answered; drafts made meanwhile carry it along."""

owner_here: ContextVar[str] = ContextVar("owner", default="")
"""Owner of the API key of the HTTP request being answered; drafts made meanwhile carry the name along."""


def random_seed() -> int:
    """A fresh seed in 0..MAX_SEED from the operating system's randomness."""
    return secrets.randbelow(MAX_SEED + 1)


def new_request_id() -> str:
    """An unguessable id (uuid4: 122 random bits)."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request as a pool's replica gets it: every value concrete.

    Attributes:
        request_id: Unguessable id, also the folder name of stored pictures.
        prompt: Text, encoded in chunks when longer than the text encoder's window.
        negative_prompt: Text to steer away from; only used while guided.
        height: Pixels.
        width: Pixels.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; a picture is guided (two rows) when above 1, as in diffusers.
        seed: Seed of picture 0; picture i has seed ``(seed + i) mod 2**32``.
        num_images: Pictures of this request.
        scheduler_name: Noise scheduler, or None for the model's own.
        output: Encoding.
        priority: Scheduling class.
        deadline: Unix time in seconds by which it must be finished, or None.
        preview_every: Steps between two previews, where the pool's capabilities have them; 0 for none.
        owner: Owner of the API key, for fair turns between owners; "" where no keys are asked for.
    """

    request_id: str
    prompt: str
    negative_prompt: str
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    num_images: int = 1
    scheduler_name: str | None = None
    output: OutputOptions = OutputOptions()
    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None
    preview_every: int = 0
    owner: str = ""

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs (two rows per picture)."""
        return self.guidance_scale > 1.0

    def image_seed(self, index: int) -> int:
        """Seed of picture `index`."""
        return (self.seed + index) % (MAX_SEED + 1)


@dataclass(frozen=True, slots=True)
class RequestDraft:
    """What a client asked for; ``None`` leaves the choice to the pool's model.

    The seed is drawn here, before routing, so that a retry on another replica gives the same picture.

    Attributes:
        pool: Name of the pool the client insists on, or None.
        model: Name of the model the client insists on, or None.
        traceparent: W3C trace context of the caller, or None.

    The others are those of `GenerationRequest`.
    """

    prompt: str
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = field(default_factory=random_seed)
    num_images: int = 1
    scheduler_name: str | None = None
    output: OutputOptions = OutputOptions()
    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None
    preview_every: int = 0
    request_id: str = field(default_factory=new_request_id)
    pool: str | None = None
    model: str | None = None
    traceparent: str | None = field(default_factory=traceparent_here.get)
    owner: str = field(default_factory=owner_here.get)

    def for_pool(self, facts: PoolFacts) -> GenerationRequest:
        """Fills what the client left open from the pool's model and checks the whole.

        Args:
            facts: The pool's model defaults and capabilities.

        Returns:
            The concrete request.

        Raises:
            UnsupportedRequest: A field is outside the pool's capabilities; `field` is canonical.
        """
        defaults, capabilities = facts.defaults, facts.capabilities
        # One side given means a square: a client that says only width=768 does not want 768x512.
        height = self.height or self.width or defaults.height
        width = self.width or self.height or defaults.width
        steps = self.num_inference_steps or defaults.num_inference_steps
        guidance_scale = defaults.guidance_scale if self.guidance_scale is None else self.guidance_scale
        # Any spelling people know ("Euler a", a diffusers class) becomes the canonical name.
        scheduler_name = self.scheduler_name and (find(self.scheduler_name) or self.scheduler_name)
        request = GenerationRequest(
            request_id=self.request_id,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            seed=self.seed,
            num_images=self.num_images,
            scheduler_name=scheduler_name,
            output=self.output,
            priority=self.priority,
            deadline=self.deadline,
            preview_every=self.preview_every,
            owner=self.owner,
        )
        problem = capabilities.problem(
            height=height,
            width=width,
            num_inference_steps=steps,
            guided=request.guided,
            scheduler_name=scheduler_name,
        )
        if problem is not None:
            raise UnsupportedRequest(*problem)
        return request

    def with_seed(self, seed: int) -> RequestDraft:
        """The same draft with another seed."""
        return replace(self, seed=seed)
