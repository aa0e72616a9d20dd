"""Imported by accelerate, where it is installed; used only in training."""


class MpDeviceLoader:
    """Loads batches onto devices."""
