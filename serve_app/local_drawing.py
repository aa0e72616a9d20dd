"""Drawing without a server: one pipeline and one engine in this process (``imagine generate``)."""

from __future__ import annotations
