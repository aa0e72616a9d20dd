"""`AccessSettings`: who may use the service, and how much of it."""

from __future__ import annotations

import os
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class CallerLimits(BaseModel):
    """How much one caller may draw; None: as much as the service can.

    Attributes:
        images_per_minute: Pictures, on average; a minute's worth may come at once.
        max_images_in_flight: Pictures being drawn, or waiting to be, at a time; those of jobs do not count.
        max_unfinished_jobs: Jobs accepted and not yet finished.
    """

    model_config = ConfigDict(extra="forbid")

    images_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_images_in_flight: Annotated[int, Field(ge=1)] | None = None
    max_unfinished_jobs: Annotated[int, Field(ge=1)] | None = None


class AccessSettings(BaseModel):
    """Who may use the service, and how much of it.

    Attributes:
        keys_file: File with the hash of every API key, a line each as ``imagine key`` prints it, where the ingress
            runs; read again when it changes. None: no key is needed.
        limits: Of every caller: of each key's owner, or else of each address.
        limits_by_name: Of the owners of keys that have others.
        image_url_secret: Signs the addresses of pictures, so that they end; whoever has a key needs no signature. None:
            addresses are open to all who know them, for as long as the picture is kept.
        image_url_max_age_s: Seconds for which a signed address opens.
    """

    model_config = ConfigDict(extra="forbid")

    keys_file: str | None = None
    limits: CallerLimits = Field(default_factory=CallerLimits)
    limits_by_name: dict[str, CallerLimits] = Field(default_factory=dict)
    image_url_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    image_url_max_age_s: Annotated[float, Field(gt=0)] = 3600.0

    @model_validator(mode="after")
    def _signatures_beside_keys(self) -> Self:
        if self.image_url_secret is not None and self.keys_file is None:
            raise ValueError("image_url_secret needs keys_file: without keys anybody may ask for any address")
        return self

    def limits_for(self, caller: str) -> CallerLimits:
        """The limits of a caller by the name that `serve_app.api.caller.caller_of` gives it."""
        return self.limits_by_name.get(caller.removeprefix("key:"), self.limits)

    @field_validator("keys_file")
    @classmethod
    def _absolute(cls, keys_file: str | None) -> str | None:
        # Without following links: Kubernetes replaces a mounted Secret by turning one.
        return keys_file and os.path.abspath(os.path.expanduser(keys_file))
