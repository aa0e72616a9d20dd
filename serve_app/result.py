"""The internal types of the way out, free of torch, Ray and HTTP.

From a replica come one `ReplicaLoad`, `StepProgress` events as they happen and, last, one `GenerationResult`.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.errors import Overloaded, QueueFull
from serve_app.request import GenerationRequest, ImageFormat


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
        full: What one more picture would be told after an accepted request for lack of room; None where there is some.
    """

    replica: str
    queued_images: int
    running_images: int
    predicted_wait_s: float
    refusal: Overloaded | None = None
    full: QueueFull | None = None


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
