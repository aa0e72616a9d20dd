"""What a pool can draw as far as its settings say, for one that is scaled to zero and was never seen running."""

from __future__ import annotations

import logging

from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.errors import ConfigurationError
from serve_app.model_files import local_folder
from serve_app.model_source import BASE_GUIDANCE_SCALE, BASE_STEPS, model_defaults
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.settings import PoolSettings

logger = logging.getLogger(__name__)

_SDXL_SIDE = 1024


def assumed_facts(pool: PoolSettings) -> PoolFacts:
    """Facts without a replica: the settings, then the model's files where they lie here too, then SDXL's own.

    They may allow more than the replica will; who uses them asks the replica again once it is up.
    """
    capabilities = Capabilities(
        max_rows=pool.max_rows,
        max_pixels=pool.max_pixels,
        scheduler_names=tuple(known.name for known in NOISE_SCHEDULERS),
        fixed_sizes=tuple(pool.sizes),
    )
    return PoolFacts(
        pool=pool.name,
        model=pool.model,
        accelerator=pool.accelerator,
        defaults=_defaults(pool).limited_to(pool.sizes),
        capabilities=capabilities,
        step_s=pool.expected_step_s,
        assumed=True,
    )


def _defaults(pool: PoolSettings) -> ModelDefaults:
    try:
        folder = local_folder(pool.model, pool.model_dirs)
        if folder is not None:
            return model_defaults(folder, pool)
    except ConfigurationError as error:
        logger.info("pool %s: the model's files do not tell its defaults here: %s", pool.name, error)
    width, height = pool.default_size or (_SDXL_SIDE, _SDXL_SIDE)
    return ModelDefaults(
        height=height,
        width=width,
        num_inference_steps=pool.num_inference_steps or BASE_STEPS,
        guidance_scale=BASE_GUIDANCE_SCALE if pool.guidance_scale is None else pool.guidance_scale,
        scheduler_name="euler",
    )
