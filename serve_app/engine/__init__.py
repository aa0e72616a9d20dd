"""The step-level engine: no Ray, no HTTP, no torch."""

from serve_app.engine.engine import Engine
from serve_app.engine.observer import EngineObserver
from serve_app.engine.stats import EngineStats
from serve_app.engine.ticket import Listener, Ticket

__all__ = ["Engine", "EngineObserver", "EngineStats", "Listener", "Ticket"]
