"""Run the tools: ``python -m tools.small_sdxl --help``."""

from tools.small_sdxl.cli import app

app(prog_name="small_sdxl")
