"""The cache of compiled graphs: optimum-neuron derives classes from these; the tests compile without a cache."""

from __future__ import annotations


class CacheUrl:
    """Where a cache is."""


class CompileCache:
    """A cache."""


class CompileCacheFs(CompileCache):
    """One in a folder."""


class CompileCacheS3(CompileCache):
    """One in an object store."""


def create_compile_cache(cache_url: CacheUrl) -> CompileCache:
    """Refuses: a compile that asks for the cache was not asked for here.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError("the stand-in has no cache of compiled graphs")
