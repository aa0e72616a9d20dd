"""Classes that optimum-neuron tells models apart by."""


class BaseModelInstance:
    """A sharded model; none is in the tests."""


class ModelBuilder:
    """Compiles sharded models; none is in the tests."""
