"""What a call over a deployment handle raises when the call itself fails, and not what was asked for."""

from __future__ import annotations

from grpc.aio import AioRpcError
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

CALL_FAILED = (RayError, RayServeException, AioRpcError)
"""The replica or its node is gone, or the answer was lost on the way.

A `ray.exceptions.RayTaskError`, which is a `RayError` too, is what the replica raised itself: look for it first. Where
Serve's handles speak gRPC, it makes a `RayError` of a connection that broke, but of no other failure of gRPC.
"""


def reason(error: BaseException) -> str:
    """What went wrong, in words; of gRPC's failures the text of their own that has them is a page long."""
    if isinstance(error, AioRpcError):
        return str(error.details() or error.code().name.lower())
    return str(error)
