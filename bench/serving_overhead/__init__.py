"""What the service costs over its bare engine: both, and a plain server around diffusers, in turns.

``__main__`` measures and tells; ``sides`` are what is measured; ``bare_engine`` and ``plain_server`` are the two that
run as processes of their own beside the whole service; ``figures`` is the arithmetic.
"""
