"""The internal types of the way in and out, free of torch, Ray and HTTP.

A wire format makes a `RequestDraft` (what the client said; ``None`` where it said nothing). The router picks a
pool, and `RequestDraft.for_pool` fills the gaps from that pool's model, checks it against the pool's
capabilities, and gives the `GenerationRequest` that crosses the handle. Back come `StepProgress` events and,
last, one `GenerationResult`.
"""

from __future__ import annotations

import secrets
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum

from serve_app.capabilities import PoolFacts
from serve_app.errors import Overloaded, UnsupportedRequest
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


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded picture without torch, numpy or PIL.

    Attributes:
        width: Pixels.
        height: Pixels.
        rgb: ``3 * width * height`` bytes, row by row, uint8 RGB.
    """

    width: int
    height: int
    rgb: bytes


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Wall seconds a picture spent in each stage (``Server-Timing``).

    Attributes:
        queue: From acceptance to the first step.
        prepare: Text encoding and first latents.
        denoise: From the first step to the last.
        decode: VAE decoding.
        encode: File encoding.
        device: Of the replica's device, the picture's own share: where pictures share a step, each has the part
            of the step's seconds that its rows are of the batch. The shares of all pictures add up to the time
            the device was busy.
    """

    queue: float = 0.0
    prepare: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    device: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The batches that a picture's steps ran in.

    Attributes:
        first_step: Number of its first step among all steps of its replica; pictures whose numbers overlap may have
            shared them.
        last_step: Number of its last one.
        mean_rows: Rows of these steps, its own among them, on average.
    """

    first_step: int
    last_step: int
    mean_rows: float


@dataclass(frozen=True, slots=True)
class StepProgress:
    """One event on the way.

    Attributes:
        request_id: Whose.
        image_index: Which picture of the request.
        step: Steps done; 0 when the picture has just been admitted to the batch.
        num_inference_steps: Steps in all.
        queue_position: Pictures ahead while waiting, else None.
        preview: Encoded small picture, or None.
        starting_pool: Name of the pool whose first replica the request is waiting for, else None.
    """

    request_id: str
    image_index: int
    step: int
    num_inference_steps: int
    queue_position: int | None = None
    preview: bytes | None = None
    starting_pool: str | None = None


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica has to do, told when it has accepted or refused a request.

    Attributes:
        replica: Unique name of the replica.
        queued_images: Pictures that wait, those of an accepted request included.
        running_images: Pictures being drawn.
        predicted_wait_s: Seconds until all of them are done; 0 before the first measurement.
        refusal: Why the request is refused at the door, or None for an accepted one. It is told instead of raised:
            Ray Serve logs a traceback for whatever a replica raises, which a full replica has no time for.
    """

    replica: str
    queued_images: int
    running_images: int
    predicted_wait_s: float
    refusal: Overloaded | None = None


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished picture.

    Attributes:
        index: 0-based within its request.
        seed: The seed that draws it again alone.
        data: The encoded file.
        format: Its format.
        width: Pixels.
        height: Pixels.
        seconds: Stage times.
        batch: The batches it ran in, where that is followed.
    """

    index: int
    seed: int
    data: bytes
    format: ImageFormat
    width: int
    height: int
    seconds: StageSeconds
    batch: BatchShare | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The end of a request: all its pictures, in order of index.

    Attributes:
        request: What was drawn, with every default filled in.
        images: One per picture.
        pool: Pool name.
        model: Model id as configured.
        accelerator: Accelerator name.
        total_s: Seconds from acceptance by the replica to the last encoded picture.
        cost: What its share of the device cost, in the currency of the pool's ``price_per_hour``; filled in by the
            ingress, which knows the price.
        start_wait_s: Seconds the request was held until its pool had a replica; filled in by the router.
    """

    request: GenerationRequest
    images: tuple[GeneratedImage, ...]
    pool: str
    model: str
    accelerator: str
    total_s: float
    cost: float = 0.0
    start_wait_s: float = 0.0

    @property
    def device_s(self) -> float:
        """Seconds of the replica's device that all the pictures took (`StageSeconds.device`)."""
        return sum(image.seconds.device for image in self.images)
