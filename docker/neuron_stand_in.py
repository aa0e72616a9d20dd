"""Stands in for AWS's two package archives, so that neuron.Dockerfile can be built where they cannot be reached:
``neuron_stand_in.py FOLDER``.

The folder is for a plain HTTP server, whose address then is NEURON_APT, and with ``/simple`` NEURON_INDEX. It has the
packages that the build asks for, in the versions that it asks for, under a key of its own; the Python ones hold
tests/neuron/stand_in, the Debian ones nothing. So the Dockerfile is built line by line, and the image imports
optimum-neuron, but has no compiler and no runtime of AWS.

Needs dpkg-deb, dpkg-scanpackages and gpg (Debian packages dpkg-dev and gpg), and pip.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = ROOT / "tests" / "neuron" / "stand_in"
CONTENTS = {
    "neuronx-cc": ("neuronxcc",),
    "torch-neuronx": ("torch_neuronx", "torch_xla"),
    "neuronx-distributed": ("neuronx_distributed",),
    "libneuronxla": ("libneuronxla",),
}
"""AWS's Python packages, and what of the stand-in each of them has."""

KEY = "GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB"


def main(folder: Path) -> None:
    """Fills the folder."""
    wheels(folder / "simple")
    debian_packages(folder)


def wheels(folder: Path) -> None:
    """Makes one wheel for each of `CONTENTS`, in the version that optimum-neuron pins."""
    versions = pinned_by_optimum_neuron()
    for name, packages in CONTENTS.items():
        normal, version = name.replace("-", "_"), versions[name]
        target = folder / name / f"{normal}-{version}-py3-none-any.whl"
        target.parent.mkdir(parents=True, exist_ok=True)
        info = f"{normal}-{version}.dist-info"
        files = {
            str(file.relative_to(STAND_IN)): file.read_text()
            for package in packages
            for file in sorted((STAND_IN / package).rglob("*.py"))
        }
        files[f"{info}/METADATA"] = (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Not AWS's package.\n"
        )
        files[f"{info}/WHEEL"] = (
            "Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
        with zipfile.ZipFile(target, "w") as wheel:
            for path, text in files.items():
                wheel.writestr(path, text)


def pinned_by_optimum_neuron() -> dict[str, str]:
    """Versions that the extra ``neuronx`` of the locked optimum-neuron asks for, by package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (version,) = re.findall(r"^optimum-neuron\[.*\]==(\S+)$", extras["neuron"][0])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, f"optimum-neuron=={version}"], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as file:
            (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = Parser().parsestr(file.read(name).decode())
    pins = re.findall(
        r"^([\w-]+)==([\d.]+)\s*;.*extra == [\"']neuronx[\"']",
        "\n".join(metadata.get_all("Requires-Dist") or ()),
        re.M,
    )
    return {package.replace("_", "-").lower(): version for package, version in pins}


def debian_packages(folder: Path) -> None:
    """Makes a signed archive of empty packages, each in the version that neuron.Dockerfile asks for."""
    wanted = re.findall(
        r'"(aws-neuronx-[a-z-]+)=([\d.]+)\*?"', (ROOT / "docker" / "neuron.Dockerfile").read_text()
    )
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for name, version in wanted:
        with tempfile.TemporaryDirectory() as tree:
            control = Path(tree, "DEBIAN", "control")
            control.parent.mkdir(mode=0o755)
            control.write_text(
                f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
                "Maintainer: nobody <nobody@localhost>\nDescription: not AWS's package\n"
            )
            run(
                ["dpkg-deb", "--root-owner-group", "--build", tree, str(pool / f"{name}_{version}_amd64.deb")]
            )
    release = folder / "dists" / "jammy" / "Release"
    listing = release.parent / "main" / "binary-amd64" / "Packages"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_bytes(run(["dpkg-scanpackages", "--multiversion", "pool"], cwd=folder))
    sum_of_listing = hashlib.sha256(listing.read_bytes()).hexdigest()
    release.write_text(
        "Origin: stand-in\nSuite: jammy\nCodename: jammy\nArchitectures: amd64\nComponents: main\n"
        f"SHA256:\n {sum_of_listing} {listing.stat().st_size} {listing.relative_to(release.parent)}\n"
    )
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--batch", "--yes", "--homedir", home]
        run(
            [
                *gpg,
                "--passphrase",
                "",
                "--quick-generate-key",
                "stand-in <nobody@localhost>",
                "rsa2048",
                "sign",
                "1d",
            ]
        )
        (folder / KEY).write_bytes(run([*gpg, "--armor", "--export"]))
        run([*gpg, "--clearsign", "--output", str(release.with_name("InRelease")), str(release)])
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)


def run(command: list[str], cwd: Path | None = None) -> bytes:
    """What a command prints; what it says on the side is shown where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr.decode(errors='replace')}")
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
