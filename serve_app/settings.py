"""Every setting of the service, and the only reader of the environment and of serveConfigV2's ``args``.

Sources, strongest first: arguments (serveConfigV2 ``args`` or the command line), environment variables with the
prefix ``IMAGINE_`` (nested with ``__``: ``IMAGINE_STORE__URL``), the defaults below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.errors import ConfigurationError
from serve_app.limits import GuidanceScale, NumInferenceSteps

BUNDLED_MODEL = "small-sdxl"
"""Name of the model that ships with the package."""

MODELS_DIR = Path(__file__).parent / "models"


class PoolSettings(BaseModel):
    """One pool: replicas of one model on one kind of accelerator.

    Attributes:
        name: Unique name; also the name of the Ray Serve deployment.
        accelerator: A file name of ``serve_app/accelerators``, or ``auto`` for the best this machine has.
        model: The bundled model's name, a folder in diffusers layout, or a hub id.
        revision: Hub revision to pin (commit, tag or branch).
        variant: Weight file variant such as ``fp16``; None tries ``fp16`` files where only those exist.
        hub_token: Hub token for gated models; the environment's ``HF_TOKEN`` is read by the hub's own code.
        dtype: Compute type; ``auto`` is the accelerator's choice for this machine.
        num_threads: CPU threads of a replica; None gives it the cores it reserved.
        min_replicas: Fewest replicas; 0 scales to zero.
        max_replicas: Most replicas.
        ray_actor_options: Placement, merged over the accelerator's own (``num_cpus``, ``num_gpus``, ``resources``...).
        price_per_hour: Price of one replica for one hour, in any one currency; the router minimises it.
        num_inference_steps: Default steps; None reads them from the model.
        guidance_scale: Default guidance; None reads it from the model.
        default_size: Default (width, height) in pixels; None reads it from the model.
        max_rows: Most rows of one denoising step.
        max_queued_images: Pictures that may wait in one replica before it refuses.
        max_queue_s: Predicted seconds of accepted work above which a replica refuses.
        exact_batches: Fill every step up to ``max_rows`` rows, so that pictures are bit-equal whatever else is drawn.
            A lone picture then costs a full step; ``docs/measurements.md`` says how much.
        concurrent_decodes: VAE decodes that may run beside the denoising, on a part of the CPU cores; 0 decodes
            between two steps on all of them.
        max_pixels: Most pixels of one picture.
        warmup: Draw a test picture before a replica calls itself ready.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = "default"
    accelerator: str = "auto"
    model: str = BUNDLED_MODEL
    revision: str | None = None
    variant: str | None = None
    hub_token: SecretStr | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    ray_actor_options: dict[str, object] = Field(default_factory=dict)
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    num_inference_steps: NumInferenceSteps | None = None
    guidance_scale: GuidanceScale | None = None
    default_size: tuple[int, int] | None = None
    max_rows: Annotated[int, Field(ge=2, le=256)] = 8
    max_queued_images: Annotated[int, Field(ge=1)] = 64
    max_queue_s: Annotated[float, Field(gt=0)] = 600.0
    exact_batches: bool = False
    concurrent_decodes: Annotated[int, Field(ge=0, le=16)] = 0
    max_pixels: Annotated[int, Field(ge=64 * 64)] = 2048 * 2048
    warmup: bool = True

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}"
            )
        return self


class StoreSettings(BaseModel):
    """Where pictures that are answered by url are kept.

    Attributes:
        url: A folder, or an object store url such as ``s3://bucket/prefix``.
        max_age_s: Seconds after which a picture is removed.
        max_bytes: When all pictures together are larger, the oldest are removed.
        sweep_interval_s: Seconds between two clean-ups.
        options: Client options of the object store (``endpoint``, ``region``...); keys from the environment too.
    """

    model_config = ConfigDict(extra="forbid")

    url: str = "pictures"
    max_age_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    max_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    sweep_interval_s: Annotated[float, Field(gt=0)] = 60.0
    options: dict[str, str] = Field(default_factory=dict)


class JobsSettings(BaseModel):
    """Jobs: requests that are accepted at once and drawn whatever happens meanwhile. Their records are in the store.

    Attributes:
        max_unfinished: Most jobs accepted and not yet finished; more are answered 429.
        max_running: Most jobs handed to the pools at a time; the rest wait in order.
        max_age_s: Seconds after which a job that is still unfinished fails.
        retention_s: Seconds for which the record of a finished job is kept.
        event_buffer: Events of a job that a client who comes back can still read.
        heartbeat_s: Longest silence of an event stream, in seconds, so that no gateway closes it.
        webhook_secret: Signs webhooks; ``whsec_`` and base64, or any text. None: jobs with a webhook are refused.
        webhook_allowed_hosts: Hosts that may be inside the own network or without TLS; all others must be public.
        webhook_attempts: Most attempts to deliver a webhook.
    """

    model_config = ConfigDict(extra="forbid")

    max_unfinished: Annotated[int, Field(ge=1)] = 1000
    max_running: Annotated[int, Field(ge=1)] = 32
    max_age_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    retention_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    event_buffer: Annotated[int, Field(ge=1)] = 256
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    webhook_secret: SecretStr | None = None
    webhook_allowed_hosts: list[str] = Field(default_factory=list)
    webhook_attempts: Annotated[int, Field(ge=1, le=20)] = 6


class Settings(BaseSettings):
    """The whole application.

    Attributes:
        pools: At least one; names are unique.
        store: Picture store.
        jobs: Jobs.
        request_timeout_s: Longest time one request may take, seconds.
        max_body_bytes: Largest request body.
        max_upload_bytes: Largest picture that may be sent to be drawn again.
        max_ongoing_requests: Most requests in one ingress replica at a time.
        ingress_replicas: Replicas of the ingress.
        trust_forwarded_headers: Build absolute urls from ``X-Forwarded-Proto/-Host/-Prefix``; take a caller's address
            from ``X-Forwarded-For``.
        public_url: Absolute base of urls in answers, when proxies do not say it; wins over the headers.
        log_prompts: Write prompts to the log.
        openai_model_aliases: Other model names that OpenAI clients may send, each with the model that draws for it.
    """

    model_config = SettingsConfigDict(env_prefix="IMAGINE_", env_nested_delimiter="__", extra="forbid")

    pools: Annotated[list[PoolSettings], Field(min_length=1)] = Field(
        default_factory=lambda: [PoolSettings()]
    )
    store: StoreSettings = Field(default_factory=StoreSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_body_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    max_upload_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 256
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    trust_forwarded_headers: bool = True
    public_url: str | None = None
    log_prompts: bool = False
    openai_model_aliases: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError(f"pool names must be unique, got {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _aliases_name_models(self) -> Self:
        models = sorted({pool.model for pool in self.pools})
        for alias, model in self.openai_model_aliases.items():
            if model not in models:
                raise ValueError(
                    f"openai_model_aliases: {alias} means {model}, served are {', '.join(models)}"
                )
        return self


def read_settings_file(file: Path) -> Settings:
    """Settings from a YAML or JSON file of the same shape as serveConfigV2's ``args``.

    A whole Serve config works too: then the ``args`` of its first application are taken.

    Raises:
        ConfigurationError: The file cannot be read or is no mapping.
        pydantic.ValidationError: A setting is wrong.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"cannot read {file} ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is no valid YAML: {error}") from None
    if (
        isinstance(content, dict)
        and isinstance(content.get("applications"), list)
        and content["applications"]
    ):
        content = content["applications"][0].get("args", {})
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} holds no mapping of settings")
    return Settings.model_validate(content)
