"""Imported by optimum-neuron; used only in distributed runs."""


def get_local_ordinal() -> int:
    """This process's place on its machine."""
    return 0
