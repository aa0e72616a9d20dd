"""What is sent to ``/v1/images/generations``, and what comes back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from serve_app.api.openai.stream import Usage
from serve_app.api.sizes import check_size, parse_size
from serve_app.api.unattended import Disconnectable
from serve_app.limits import (
    GuidanceScale,
    NumInferenceSteps,
    PromptText,
    RequiredPrompt,
    Seed,
    ShortName,
    WholeNumber,
)
from serve_app.request import ImageFormat, OutputOptions, RequestDraft, random_seed
from serve_app.settings import Settings

AUTO = "auto"
"""What clients say for size and quality that they leave to the model."""


def _check_size(text: str) -> str:
    return text if text == AUTO else check_size(text)


class ImagesRequest(Disconnectable):
    """The body. Null means absent for all but the prompt."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "a red star on a blue background", "size": "512x512", "seed": 7},
                {
                    "prompt": "a yellow heart on the left",
                    "n": 2,
                    "size": "auto",
                    "response_format": "url",
                    "num_inference_steps": 4,
                },
            ]
        },
    )

    prompt: RequiredPrompt = Field(description="What to draw.")
    model: ShortName | None = Field(default=None, description="A model of /v1/models; any when absent.")
    n: Annotated[WholeNumber, Field(ge=1, le=10)] | None = Field(default=None, description="Pictures.")
    size: Annotated[str, Field(max_length=20), AfterValidator(_check_size)] | None = Field(
        default=None, description="WIDTHxHEIGHT in pixels; the model's own when absent or auto."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="Base64 when absent; stored, with an address, for url."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        default=None, description="File format; png when absent."
    )
    output_compression: Annotated[WholeNumber, Field(ge=0, le=100)] | None = Field(
        default=None, description="Quality of jpeg and webp in percent; 100 is the best."
    )
    stream: bool | None = Field(
        default=None, description="Answer with server-sent events; only for one picture."
    )
    partial_images: Annotated[WholeNumber, Field(ge=0, le=3)] | None = Field(
        default=None, description="Most previews to send on the way; needs stream."
    )
    background: Literal["auto", "opaque"] | None = Field(
        default=None, description="Pictures are always opaque; transparent is refused."
    )
    quality: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: steps decide."
    )
    style: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: the prompt decides."
    )
    moderation: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: nothing is filtered."
    )
    user: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Taken, without effect."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the first picture, counted up for the others; random when absent."
    )
    num_inference_steps: NumInferenceSteps | None = Field(
        default=None, description="Denoising steps; the model's own when absent."
    )
    guidance_scale: GuidanceScale | None = Field(default=None, description="0 and 1 mean no guidance.")
    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with guidance_scale above 1."
    )
    scheduler: ShortName | None = Field(default=None, description="Noise scheduler; /api/pools lists them.")
    pool: ShortName | None = Field(default=None, description="Pool that must draw it.")

    @field_validator("stream")
    @classmethod
    def _one_picture(cls, stream: bool | None, info: ValidationInfo) -> bool | None:
        if stream and (info.data.get("n") or 1) > 1:
            raise ValueError("a stream tells of one picture only; send n = 1, or leave stream out")
        if stream and info.data.get("response_format") == "url":
            raise ValueError("a stream carries the picture itself; leave response_format=url or stream out")
        return stream

    @field_validator("partial_images")
    @classmethod
    def _streamed(cls, partial_images: int | None, info: ValidationInfo) -> int | None:
        if partial_images and "stream" in info.data and not info.data["stream"]:
            raise ValueError("previews need stream = true")
        return partial_images

    def to_draft(self, settings: Settings) -> RequestDraft:
        """The request in internal terms."""
        width, height = (None, None) if self.size in (None, AUTO) else parse_size(str(self.size))
        quality = OutputOptions().quality if self.output_compression is None else self.output_compression
        return RequestDraft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width=width,
            height=height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=random_seed() if self.seed is None else self.seed,
            num_images=self.n or 1,
            scheduler_name=self.scheduler,
            output=OutputOptions(ImageFormat(self.output_format or "png"), max(1, quality)),
            pool=self.pool,
            model=self.model and settings.openai_model_aliases.get(self.model, self.model),
        )


class Picture(BaseModel):
    """One picture.

    Attributes:
        b64_json: The file in base64; absent where `url` is there.
        url: Where it can be fetched, for as long as it is kept; absent where `b64_json` is there.
        revised_prompt: The prompt as it was drawn, which is the one that was sent.
        seed: The seed that draws it again.
    """

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str
    seed: int


class ImagesResponse(BaseModel):
    """The answer.

    Attributes:
        created: Unix time in seconds.
        data: The pictures.
        background: Always ``opaque``.
        output_format: Format of the files.
        quality: As asked for.
        size: WIDTHxHEIGHT as drawn.
        usage: Nothing is counted in tokens.
    """

    created: int
    data: list[Picture]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    quality: str
    size: str = Field(examples=["512x512"])
    usage: Usage = Usage()
