"""Stable Diffusion XL as a Ray Serve application over mixed, scarce accelerators."""

__version__ = "0.1.0"
