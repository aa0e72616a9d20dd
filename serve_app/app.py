"""`build`: the only place that wires the parts together.

``serve run serve_app.app:build``, ``serve deploy`` with a config file, KubeRay's serveConfigV2
(``import_path: serve_app.app:build``) and ``imagine serve`` all come through here.
"""

# No `from __future__ import annotations` here: Ray Serve reads the annotation of `build` itself to validate args.

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig

from serve_app import accelerators
from serve_app.deployment import PoolReplica
from serve_app.ingress import Ingress
from serve_app.jobs_deployment import Jobs
from serve_app.live_drawings_handle import LiveDrawingsDeployment
from serve_app.settings import PoolSettings, Settings

JOBS_DRAIN_S = 5.0
"""Seconds the keeper of the jobs may take to stop: what it leaves unfinished, its successor takes up."""

JOBS_MAX_ONGOING_REQUESTS = 4096
"""Readers of events among them; what bounds the jobs is ``jobs.max_unfinished``."""

UNSEEN_RETRY_AFTER_S = 5.0
"""Retry-After of a refusal by Serve's proxy, which knows nothing of the work that is predicted."""

DRAIN_S = 120.0
"""Seconds an ingress replica may take to answer what it has accepted when it is replaced."""

IN_ADVANCE = 64
"""Calls of one replica beyond what its engine holds: what is refused there, asked or cancelled in passing."""

MAX_ROWS_IN_FLIGHT = 4
"""The engine prepares up to this many times ``max_rows`` (`serve_app.engine.Engine`)."""

LIVE_MAX_ONGOING_REQUESTS = 4096
"""Calls take far less than a millisecond each, so this many are never under way at once."""


def build(args: Settings) -> serve.Application:
    """Wires ingress, router, jobs and one deployment per pool.

    Args:
        args: The settings; Ray Serve validates serveConfigV2's ``args`` into this type.

    Returns:
        The application to run or deploy.
    """
    beside_http = {"num_cpus": 0, **args.ingress_ray_actor_options}
    handles = {pool.name: _pool_deployment(pool, args) for pool in args.pools}
    jobs = Jobs.options(
        num_replicas=1,
        max_ongoing_requests=JOBS_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=JOBS_DRAIN_S,
        health_check_period_s=5,
        health_check_timeout_s=15,
        ray_actor_options=beside_http,
        **_log_options(args),
    ).bind(args, handles)
    ingress = Ingress.options(
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        # An ingress that gets no processor time can neither accept nor refuse. The proxies' own queues have no end.
        max_queued_requests=args.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=UNSEEN_RETRY_AFTER_S),
        graceful_shutdown_timeout_s=DRAIN_S,
        max_surge_percent=100,  # it reserves nothing, so a successor starts before an ingress leaves
        ray_actor_options=beside_http,
        **_log_options(args),
    )
    live = _live_drawings(beside_http, args) if args.ingress_replicas > 1 else None
    return ingress.bind(args, handles, jobs, live=live)


def _live_drawings(ray_actor_options: dict[str, object], settings: Settings) -> serve.Application:
    # One replica, since it is the place that all ingress replicas share; nothing in it must survive a restart.
    return LiveDrawingsDeployment.options(
        num_replicas=1,
        max_ongoing_requests=LIVE_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=1.0,
        health_check_period_s=5,
        health_check_timeout_s=15,
        ray_actor_options=ray_actor_options,
        **_log_options(settings),
    ).bind()


def _log_options(settings: Settings) -> dict[str, LoggingConfig]:
    """Nothing for text: then the Serve config's own ``logging_config`` holds."""
    return {"logging_config": LoggingConfig(encoding="JSON")} if settings.log_format == "json" else {}


def _pool_deployment(pool: PoolSettings, settings: Settings) -> serve.Application:
    accelerator = accelerators.of_pool(pool)
    options = {
        "name": pool.name,
        "ray_actor_options": merged_options(accelerator.ray_actor_options(pool), pool.ray_actor_options),
        # The engine's own bounded queue refuses with an honest retry-after. Ray's limit must never be reached: beyond
        # it calls would wait unseen at the handle, as if the replica were dead.
        "max_ongoing_requests": pool.max_queued_images + MAX_ROWS_IN_FLIGHT * pool.max_rows + IN_ADVANCE,
        "graceful_shutdown_timeout_s": pool.graceful_shutdown_timeout_s,
        "health_check_period_s": 5,
        "health_check_timeout_s": 15,
        **_log_options(settings),
    }
    if pool.min_replicas == pool.max_replicas:
        options["num_replicas"] = pool.min_replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": pool.min_replicas,
            "max_replicas": pool.max_replicas,
            "target_ongoing_requests": pool.target_ongoing_requests or pool.max_rows,
            "upscale_delay_s": pool.upscale_delay_s,
            "downscale_delay_s": pool.downscale_delay_s,
            "downscale_to_zero_delay_s": pool.downscale_to_zero_delay_s,
        }
    return PoolReplica.options(**options).bind(
        pool,
        accelerator.name,
        follow_batches=settings.traces_url is not None,
        picture_metadata=settings.picture_metadata,
        invisible_watermark=settings.invisible_watermark,
        safety=settings.safety,
    )


def merged_options(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Placement as the accelerator needs it, with what the settings say laid over it.

    A mapping inside (``resources``, ``label_selector``) is laid over entry by entry: to ask for a node with a
    custom resource does not give up the accelerator's own.
    """
    merged = {**own, **given}
    for name in own.keys() & given.keys():
        if isinstance(own[name], Mapping) and isinstance(given[name], Mapping):
            merged[name] = {**own[name], **given[name]}
    return merged
