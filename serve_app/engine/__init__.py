"""The step-level engine: no Ray, no HTTP, no torch."""
