"""Every setting of the service, and the only reader of the environment and of serveConfigV2's ``args``.

Sources, strongest first: arguments (serveConfigV2 ``args`` or the command line), environment variables with the
prefix ``IMAGINE_`` (nested with ``__``: ``IMAGINE_STORE__URL``), the defaults below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.access_settings import AccessSettings, CallerLimits
from serve_app.errors import ConfigurationError
from serve_app.pool_settings import (
    BUNDLED_MODEL,
    MODELS_DIR,
    AcceleratorSettings,
    CpuSettings,
    CudaSettings,
    PoolSettings,
)

__all__ = [
    "BUNDLED_MODEL",
    "MODELS_DIR",
    "AcceleratorSettings",
    "AccessSettings",
    "CallerLimits",
    "CpuSettings",
    "CudaSettings",
    "JobsSettings",
    "PoolSettings",
    "SafetySettings",
    "Settings",
    "StoreSettings",
    "read_settings_file",
]


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
        max_unfinished: Most jobs accepted and not yet finished; more are answered 429. As many may have ended and
            wait for their webhook to be delivered.
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


class SafetySettings(BaseModel):
    """What looks at each picture before it leaves its replica.

    Attributes:
        checker: ``module:name`` of what makes a `serve_app.safety.SafetyChecker`; importable where replicas run.
        options: Keyword arguments for it.
    """

    model_config = ConfigDict(extra="forbid")

    checker: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field(default_factory=dict)


class Settings(BaseSettings):
    """The whole application.

    Attributes:
        pools: At least one; names are unique.
        store: Picture store.
        jobs: Jobs.
        access: Keys and limits of callers.
        request_timeout_s: Longest time one request may take, seconds.
        body_timeout_s: Longest time a request's body may take to arrive, seconds.
        max_body_bytes: Largest request body.
        max_upload_bytes: Largest picture that may be sent to be drawn again.
        max_ongoing_requests: Most requests in one ingress replica at a time.
        max_queued_requests: Most requests that each of Serve's proxies keeps while every ingress replica has as many
            as it may, or is too busy to take one; further ones get 503 from the proxy.
        ingress_replicas: Replicas of the ingress.
        ingress_ray_actor_options: Placement of the ingress and of what serves it (jobs, progress shared by several
            ingress replicas), merged over ``num_cpus: 0``: keeps them off nodes that should be released when idle.
        trust_forwarded_headers: Build absolute urls from ``X-Forwarded-Proto/-Host/-Prefix``; take a caller's address
            from ``X-Forwarded-For``.
        public_url: Absolute base of urls in answers, when proxies do not say it; wins over the headers.
        log_format: ``json`` writes one JSON object per line in the replicas' logs.
        log_prompts: Write prompts to the log.
        picture_metadata: Write into each picture how it was drawn; without it, ``/api/replay`` cannot read it.
        safety: What looks at each picture before it leaves its replica; None lets all pass.
        invisible_watermark: Put the mark of diffusers' SDXL pipelines into each picture (`serve_app.watermark`).
        traces_url: OTLP/HTTP address that traces are sent to; None sends none.
        openai_model_aliases: Other model names that OpenAI clients may send, each with the model that draws for it.
    """

    model_config = SettingsConfigDict(env_prefix="IMAGINE_", env_nested_delimiter="__", extra="forbid")

    pools: Annotated[list[PoolSettings], Field(min_length=1)] = Field(
        default_factory=lambda: [PoolSettings()]
    )
    store: StoreSettings = Field(default_factory=StoreSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    body_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    max_body_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    max_upload_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 256
    max_queued_requests: Annotated[int, Field(ge=1)] = 256
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    ingress_ray_actor_options: dict[str, object] = Field(default_factory=dict)
    trust_forwarded_headers: bool = True
    public_url: Annotated[str, Field(pattern=r"^https?://[^/\s?#]+[^\s?#]*$")] | None = None
    log_format: Literal["text", "json"] = "text"
    log_prompts: bool = False
    picture_metadata: bool = True
    safety: SafetySettings | None = None
    invisible_watermark: bool = False
    traces_url: Annotated[str, Field(pattern=r"^https?://.+")] | None = None
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
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {file} ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date with a 13th month
        raise ConfigurationError(f"{file} is no valid YAML: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("applications"), list):
        applications = [one for one in content["applications"] if isinstance(one, dict)]
        content = applications[0].get("args", {}) if applications else None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"{file} holds no mapping of settings")
    return Settings.model_validate(content)
