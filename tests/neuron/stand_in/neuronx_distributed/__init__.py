"""Sharding over many cores; imported by optimum-neuron, not used for SDXL."""

from neuronx_distributed import parallel_layers, trace

__all__ = ["parallel_layers", "trace"]
