"""``POST /sdapi/v1/txt2img``."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from serve_app import __version__, metadata
from serve_app.api.a1111.infotext import Infotext, ParsedInfotext, parse_infotext
from serve_app.api.a1111.rounds import LiveRounds, live_drawing
from serve_app.api.a1111.shape import BLANK, ERRORS, A1111Error, find_model, models, scheduler_name, title
from serve_app.api.caller import caller_of
from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.drawing import drawing_headers
from serve_app.api.errors import DRAWING_STATUSES, error_responses
from serve_app.api.unattended import Disconnectable, attended, keep_as
from serve_app.capabilities import ModelDefaults
from serve_app.limits import (
    MAX_IMAGES_PER_REQUEST,
    MAX_SEED,
    GuidanceScale,
    NumImages,
    NumInferenceSteps,
    PixelSide,
    PromptText,
    ShortName,
    WholeNumber,
)
from serve_app.noise_schedulers import find, sampler_and_schedule
from serve_app.request import RequestDraft, new_request_id, random_seed
from serve_app.result import GenerationResult

PREVIEWS_PER_PICTURE = 5
"""A1111 shows a preview every so many steps; here there are at most this many, whatever the number of steps."""


class OverrideSettings(BaseModel):
    """Of A1111's settings, the one that decides what is drawn. Others are ignored."""

    sd_model_checkpoint: Annotated[ShortName | None, BLANK] = None


class Txt2ImgRequest(Disconnectable):
    """The body. Every field may be left out or null; unknown fields are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "pretty dog"},
                {
                    "prompt": "a red star on a blue background",
                    "steps": 4,
                    "cfg_scale": 1,
                    "width": 512,
                    "height": 512,
                    "seed": 7,
                    "batch_size": 2,
                },
            ]
        },
    )

    prompt: PromptText | None = Field(default=None, description="What to draw.")
    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with cfg_scale above 1."
    )
    seed: Annotated[WholeNumber, Field(ge=-1, le=MAX_SEED)] | None = Field(
        default=None, description="Seed of the first picture, counted up for the others; -1 is a random one."
    )
    steps: NumInferenceSteps | None = Field(default=None, description="The model's own when absent.")
    cfg_scale: GuidanceScale | None = Field(
        default=None, description="Guidance, the model's own when absent; up to 1 means none."
    )
    width: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    height: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    n_iter: NumImages | None = Field(default=None, description="Rounds, 1 when absent.")
    batch_size: NumImages | None = Field(default=None, description="Pictures of each round, 1 when absent.")
    sampler_name: Annotated[ShortName | None, BLANK] = Field(
        default=None, description="One of /sdapi/v1/samplers; the model's own when absent."
    )
    sampler_index: Annotated[ShortName | None, BLANK] = Field(
        default=None, description="An older name of sampler_name, which wins."
    )
    scheduler: Annotated[ShortName | None, BLANK] = Field(
        default=None, description="One of /sdapi/v1/schedulers."
    )
    override_settings: OverrideSettings | None = Field(
        default=None, description="sd_model_checkpoint is the model for this request."
    )
    send_images: bool | None = Field(default=None, description="Whether the answer carries the pictures.")
    save_images: bool | None = Field(default=None, description="Ignored: pictures are not kept.")
    force_task_id: Annotated[ShortName | None, BLANK] = Field(
        default=None, description="The client's own id of this request, for /internal/progress."
    )
    infotext: Infotext | None = Field(
        default=None, description="Parameters as in a picture's file; fields that are sent win over it."
    )
    enable_hr: bool | None = Field(default=None, description="Must not be true: there is no upscaler.")
    script_name: Annotated[ShortName | None, BLANK] = Field(
        default=None, description="Must be absent: there are no scripts."
    )

    @field_validator("batch_size")
    @classmethod
    def _within_total(cls, batch_size: int | None, info: ValidationInfo) -> int | None:
        rounds = info.data.get("n_iter") or 1
        if rounds * (batch_size or 1) > MAX_IMAGES_PER_REQUEST:
            raise ValueError(f"n_iter x batch_size must be at most {MAX_IMAGES_PER_REQUEST} pictures")
        return batch_size

    @field_validator("enable_hr")
    @classmethod
    def _no_upscaler(cls, enable_hr: bool | None) -> bool | None:
        if enable_hr:
            raise ValueError("there is no upscaler; ask for the width and height you want")
        return enable_hr

    @field_validator("script_name")
    @classmethod
    def _no_script(cls, script_name: str | None) -> str | None:
        if script_name:
            raise ValueError("there are no scripts")
        return script_name

    def to_drafts(self, model: str) -> list[RequestDraft]:
        """One draft per round; seeds run on from round to round.

        Args:
            model: What draws it.

        Raises:
            UnsupportedRequest: Sampler and schedule do not go together.
        """
        said = ParsedInfotext() if self.infotext is None else parse_infotext(self.infotext)
        seed = said.seed if self.seed is None else self.seed
        first_seed = random_seed() if seed is None or seed < 0 else seed
        sampler = self.sampler_name or self.sampler_index
        steps = self.steps or said.steps
        batch_size = self.batch_size or 1
        return [
            RequestDraft(
                prompt=said.prompt if self.prompt is None else self.prompt,
                negative_prompt=said.negative_prompt
                if self.negative_prompt is None
                else self.negative_prompt,
                width=self.width or said.width,
                height=self.height or said.height,
                num_inference_steps=steps,
                guidance_scale=said.cfg_scale if self.cfg_scale is None else self.cfg_scale,
                seed=(first_seed + number * batch_size) % (MAX_SEED + 1),
                num_images=batch_size,
                scheduler_name=scheduler_name(sampler, self.scheduler)
                if sampler
                else scheduler_name(said.sampler, self.scheduler or said.schedule),
                model=model,
            )
            for number in range(self.n_iter or 1)
        ]


class Txt2ImgResponse(BaseModel):
    """The answer.

    Attributes:
        images: Base64 of the PNG files, without a ``data:`` prefix. Fewer than asked for, or none, when it was
            interrupted or rounds were skipped.
        parameters: The request, with what was drawn where it left something open.
        info: A JSON text: seeds, texts and settings of all pictures.
    """

    images: list[str]
    parameters: dict[str, Any]
    info: str


router = APIRouter(prefix="/sdapi/v1", route_class=ERRORS.route_class())


@router.post(
    "/txt2img",
    summary="Draw pictures as A1111's clients ask for them",
    responses=error_responses(A1111Error, 400, *DRAWING_STATUSES),
    openapi_extra=body_schema(Txt2ImgRequest),
)
async def txt2img(
    body: Annotated[Txt2ImgRequest, Depends(json_body(Txt2ImgRequest))],
    request: Request,
    response: Response,
    service: Service,
) -> Txt2ImgResponse:
    """Draws ``n_iter`` x ``batch_size`` pictures. Absent steps, cfg_scale and size are the model's own, not A1111's
    50, 7 and 512. Closing the connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    caller = caller_of(request, service.settings)
    model = await _model(body, caller, service)
    defaults = (await service.facts(model=model)).defaults
    drafts = body.to_drafts(model)
    steps = drafts[0].num_inference_steps or defaults.num_inference_steps
    every = -(-steps // PREVIEWS_PER_PICTURE)
    drafts = [replace(draft, preview_every=every) for draft in drafts]
    picture_id = await keep_as(request, service.store, body.on_disconnect)
    drawing = live_drawing(new_request_id(), caller, body.force_task_id, drafts, steps)
    results = await attended(LiveRounds(service, drawing, drafts, picture_id).draw(), picture_id)
    if results:
        response.headers.update(drawing_headers(results))
    pictures = [image for result in results for image in result.images]
    wanted = body.send_images is not False
    return Txt2ImgResponse(
        images=[base64.b64encode(picture.data).decode("ascii") for picture in pictures] if wanted else [],
        parameters=_parameters(body, drafts[0], model, defaults),
        info=json.dumps(_info(body, drafts[0], results, model, defaults)),
    )


async def _model(body: Txt2ImgRequest, caller: str, service: Service) -> str:
    """The model named in the request, else the one that the caller chose by its options, else the first."""
    named = body.override_settings and body.override_settings.sd_model_checkpoint
    if named:
        return find_model(named, service.settings)
    return await service.live.chosen_model(caller) or models(service.settings)[0]


def _filled_in(draft: RequestDraft, defaults: ModelDefaults) -> dict[str, Any]:
    """What was drawn, in A1111's names."""
    guidance_scale = defaults.guidance_scale if draft.guidance_scale is None else draft.guidance_scale
    sampler, _ = sampler_and_schedule(_scheduler_name(draft, defaults))
    return {
        "prompt": draft.prompt,
        "negative_prompt": draft.negative_prompt,
        "seed": draft.seed,
        "width": draft.width or draft.height or defaults.width,
        "height": draft.height or draft.width or defaults.height,
        "sampler_name": sampler,
        "cfg_scale": guidance_scale,
        "steps": draft.num_inference_steps or defaults.num_inference_steps,
        "batch_size": draft.num_images,
    }


def _scheduler_name(draft: RequestDraft, defaults: ModelDefaults) -> str:
    return (
        (draft.scheduler_name and find(draft.scheduler_name))
        or draft.scheduler_name
        or defaults.scheduler_name
    )


def _parameters(
    body: Txt2ImgRequest, draft: RequestDraft, model: str, defaults: ModelDefaults
) -> dict[str, Any]:
    asked = body.model_dump(exclude={"on_disconnect"})
    drawn = _filled_in(draft, defaults)
    return {
        **asked,
        **drawn,
        "n_iter": body.n_iter or 1,
        "sampler_index": drawn["sampler_name"],
        "override_settings": {"sd_model_checkpoint": title(model)},
    }


def _info(
    body: Txt2ImgRequest,
    draft: RequestDraft,
    results: list[GenerationResult],
    model: str,
    defaults: ModelDefaults,
) -> dict[str, Any]:
    pictures = [(result, image) for result in results for image in result.images]
    seeds = [image.seed for _, image in pictures]
    scheduler = _scheduler_name(draft, defaults)
    texts = [
        metadata.infotext(result.request, index=image.index, model=model, scheduler_name=scheduler)
        for result, image in pictures
    ]
    drawn = _filled_in(draft, defaults)
    return {
        **drawn,
        "seed": seeds[0] if seeds else draft.seed,
        "all_prompts": [draft.prompt] * len(pictures),
        "all_negative_prompts": [draft.negative_prompt] * len(pictures),
        "all_seeds": seeds,
        # A second seed to vary the first one does not exist here.
        "subseed": 0,
        "all_subseeds": [0] * len(pictures),
        "subseed_strength": 0,
        "sd_model_name": model,
        "sd_model_hash": metadata.model_hash(model),
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "index_of_first_image": 0,
        "infotexts": texts,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": None,
        "extra_generation_params": {},
        "is_using_inpainting_conditioning": False,
        "styles": [],
        "version": f"imagine {__version__}",
    }
