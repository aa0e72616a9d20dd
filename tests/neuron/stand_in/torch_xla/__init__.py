"""Only its version is asked for."""

__version__ = "2.8.0"
