"""Part of neuronx-distributed."""
