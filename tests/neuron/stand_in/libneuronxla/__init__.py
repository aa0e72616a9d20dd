"""Part of libneuronxla."""
