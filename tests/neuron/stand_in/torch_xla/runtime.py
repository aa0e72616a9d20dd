"""Imported by optimum-neuron; used only in distributed runs."""


def global_ordinal() -> int:
    """This process's place among all."""
    return 0
