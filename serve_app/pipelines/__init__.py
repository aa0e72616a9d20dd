"""The step maths shared by every accelerator, on torch and diffusers."""

import os

# Read when transformers is imported: its advice about packages that pictures do not need stays out of our logs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
