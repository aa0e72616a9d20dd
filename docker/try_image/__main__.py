"""Tries the image that it runs in: ``python try_image KIND INSPECTED SERVICE_URL``. Called by docker/try-image.sh."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

from container import (
    ANYWHERE,
    Fault,
    Image,
    get,
    is_healthy,
    passed,
    png_size,
    started,
    wait_for,
    wait_until_healthy,
    written_since,
)
from page import PROMPT, SEED, try_page

MODELS = ("torch", "diffusers", "transformers", "accelerate")
FORBIDDEN = {"ui": (*MODELS, "ray", "serve_app"), "head": (*MODELS, "gradio")}
NEEDED = {
    "ui": ("gradio", "gradio_ui"),
    "head": ("ray", "serve_app"),
    "cpu": ("ray", "serve_app", *MODELS),
    "cpu-ipex": ("ray", "serve_app", *MODELS, "intel_extension_for_pytorch"),
    "cuda": ("ray", "serve_app", *MODELS),
    "neuron": ("ray", "serve_app", "torch", "diffusers", "transformers", "optimum.neuron", "torch_neuronx"),
}
CONFIGURATIONS = {
    "cpu-ipex": "pools: [{name: cpu, accelerator: cpu, model: small-sdxl, dtype: bfloat16, cpu: {layers: ipex}}]"
}
"""What an image is to be asked for, where it would not show what it is for by itself."""

SERVICE_PORT = 8000
_READY_S, _DRAW_S = 600.0, 180.0
_RESOURCES = (
    "import json, ray; ray.init('auto', log_to_driver=False); print(json.dumps(ray.cluster_resources()))"
)


def main(kind: str, inspected: str, service_url: str) -> int:
    """Tries everything; the exit status tells whether all holds."""
    began_s = time.time()
    try:
        image = Image.read(Path(inspected))
        try_user(image)
        try_packages(kind)
        if is_healthy(image):
            raise Fault("the health check passes before anything runs")
        if kind == "ui":
            try_page(image, service_url)
        else:
            try_commands()
            try_head(image) if kind == "head" else try_worker(image, CONFIGURATIONS.get(kind))
        changed = written_since(began_s)
        if changed:
            raise Fault(f"writes to {changed[:10]}, which is read-only in its pod")
        passed("stops on SIGTERM with all its processes, and has written only where its pod may")
    except (Fault, OSError, subprocess.SubprocessError, LookupError, ValueError) as error:
        print(f"FAILED  {kind}: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0


def try_user(image: Image) -> None:
    """It runs as a user without rights, who cannot become root."""
    if image.user != "1000:1000" or set(os.getresuid()) != {1000} or 0 in (*os.getgroups(), os.getgid()):
        raise Fault(f"user {image.user!r}, ids {os.getresuid()}, groups {os.getgroups()}")
    capabilities = [
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapEff:")
    ]
    if int(capabilities[0], 16):
        raise Fault(f"has capabilities {capabilities[0]}")
    passed(f"runs as user {image.user}, without capabilities")


def try_packages(kind: str) -> None:
    """It has what it needs, and nothing that is not its own."""
    found = [name for name in FORBIDDEN.get(kind, ()) if importlib.util.find_spec(name) is not None]
    if found:
        raise Fault(f"has {found}")
    missing = [name for name in NEEDED[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise Fault(f"has no {missing}")
    versions = [f"Python {sys.version.split()[0]}"]
    for name in ("ray", "torch", "diffusers", "gradio", "optimum-neuron", "intel-extension-for-pytorch"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    without = f"; no {', '.join(FORBIDDEN[kind])}" if kind in FORBIDDEN else ""
    passed(f"has {', '.join(versions)}{without}")


def try_commands() -> None:
    """The commands that pods and people call are there."""
    said = [
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
        for command in (["imagine", "--version"], ["ray", "--version"])
    ]
    subprocess.run(["wget", "--version"], capture_output=True, check=True, timeout=60)  # KubeRay's own probes
    # A pod's login shell, which KubeRay starts its commands in, has a path of its own.
    subprocess.run(
        ["bash", "-lc", "imagine --version && ray --version"],
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )
    passed(f"imagine --version: {said[0]}; ray --version: {said[1]}")


def try_head(image: Image) -> None:
    """It starts as the head of a cluster that lends no CPU."""
    with started(image) as process:
        seconds = wait_until_healthy(image, process)
        passed(f"HEALTHCHECK passes {seconds:.0f} s after its command was started")
        done = subprocess.run(
            [sys.executable, "-c", _RESOURCES], capture_output=True, text=True, timeout=120, check=True
        )
        resources = json.loads(done.stdout.splitlines()[-1])
        if "CPU" in resources or "node:__internal_head__" not in resources:
            raise Fault(f"is no head that lends no CPU: {resources}")
        passed("a driver finds its cluster, which lends no CPU")


def try_worker(image: Image, configuration: str | None) -> None:
    """Alone it is the whole service, and draws with the model it has."""
    environment = {}
    if configuration is not None:
        environment["IMAGINE_CONFIG"] = "/tmp/try-image.yaml"
        Path(environment["IMAGINE_CONFIG"]).write_text(configuration)
    service = f"http://{ANYWHERE}:{SERVICE_PORT}"
    if SERVICE_PORT not in image.ports:
        raise Fault(f"does not declare port {SERVICE_PORT}")
    with started(image, **environment) as process:
        wait_for(f"{service}/ready", _READY_S, process)
        seconds = wait_until_healthy(image, process)
        passed(f"answers on port {SERVICE_PORT}, on all addresses; HEALTHCHECK passes ({seconds:.0f} s)")
        query = urllib.parse.urlencode({"prompt": PROMPT, "seed": SEED})
        status, headers, data = get(f"{service}/imagine?{query}", timeout_s=_DRAW_S)
        if status != 200:
            raise Fault(f"status {status}: {data[:300]!r}")
        width, height = png_size(data)
        passed(
            f"draws a picture of {width}x{height} on {headers['x-accelerator']}, model {headers['x-model']}"
        )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
