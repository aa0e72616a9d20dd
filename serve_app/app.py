"""`build`: the only place that wires the parts together.

``serve run serve_app.app:build``, ``serve deploy`` with a config file, KubeRay's serveConfigV2
(``import_path: serve_app.app:build``) and ``imagine serve`` all come through here.
"""

# No `from __future__ import annotations` here: Ray Serve reads the annotation of `build` itself to validate args.

from ray import serve

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

DRAIN_S = 120.0
"""Seconds a replica may take to finish its pictures when it is replaced; longer than the longest usual picture."""

LIVE_MAX_ONGOING_REQUESTS = 4096
"""Calls take far less than a millisecond each, so this many are never under way at once."""


def build(args: Settings) -> serve.Application:
    """Wires ingress, router, jobs and one deployment per pool.

    Args:
        args: The settings; Ray Serve validates serveConfigV2's ``args`` into this type.

    Returns:
        The application to run or deploy.
    """
    handles = {pool.name: _pool_deployment(pool) for pool in args.pools}
    jobs = Jobs.options(
        num_replicas=1,
        max_ongoing_requests=JOBS_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=JOBS_DRAIN_S,
        health_check_period_s=5,
        health_check_timeout_s=15,
        ray_actor_options={"num_cpus": 0},
    ).bind(args, handles)
    ingress = Ingress.options(
        num_replicas=args.ingress_replicas,
        max_ongoing_requests=args.max_ongoing_requests,
        graceful_shutdown_timeout_s=DRAIN_S,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(args, handles, jobs, live=_live_drawings() if args.ingress_replicas > 1 else None)


def _live_drawings() -> serve.Application:
    # One replica, since it is the place that all ingress replicas share; nothing in it must survive a restart.
    return LiveDrawingsDeployment.options(
        num_replicas=1,
        max_ongoing_requests=LIVE_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=1.0,
        health_check_period_s=5,
        health_check_timeout_s=15,
        ray_actor_options={"num_cpus": 0},
    ).bind()


def _pool_deployment(pool: PoolSettings) -> serve.Application:
    accelerator = accelerators.choose(pool.accelerator)
    options = {
        "name": pool.name,
        "ray_actor_options": accelerator.ray_actor_options(pool) | dict(pool.ray_actor_options),
        # The engine's own bounded queue refuses with an honest retry-after; Ray's limit only backs it up.
        "max_ongoing_requests": pool.max_queued_images + pool.max_rows,
        "graceful_shutdown_timeout_s": DRAIN_S,
        "health_check_period_s": 5,
        "health_check_timeout_s": 15,
    }
    if pool.min_replicas == pool.max_replicas:
        options["num_replicas"] = pool.min_replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": pool.min_replicas,
            "max_replicas": pool.max_replicas,
            "target_ongoing_requests": pool.max_rows,
        }
    return PoolReplica.options(**options).bind(pool, accelerator.name)
