"""``imagine models``: what can be served without a download."""

from __future__ import annotations

import json

from rich.console import Console

from serve_app.cli.options import AsJson


def models(as_json: AsJson = False) -> None:
    """List the models that can be served without a download: the bundled one and those in the hub's cache."""
    from rich.table import Table

    from serve_app.model_source import local_models

    found = local_models()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("model", "from", "weights", "size", "steps", "guidance", box=None)
    for entry in found:
        table.add_row(
            entry["model"],
            entry["source"],
            f"{entry['weights'] / 1e6:.1f} M",
            f"{entry['width']}x{entry['height']}",
            str(entry["num_inference_steps"]),
            f"{entry['guidance_scale']:g}",
        )
    Console().print(table)
