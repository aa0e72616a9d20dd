"""No secret is in the repository: shapes of well-known keys over every tracked text file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serve_app.api_keys import new_key

ROOT = Path(__file__).parents[2]

SHAPES = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a key of this service": r"\bimk_[A-Za-z0-9_-]{43}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an Alibaba Cloud access key": r"\bLTAI[0-9A-Za-z]{12,24}\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a GitHub token": r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{60,})",
    "a GitLab token": r"\bglpat-[0-9A-Za-z_-]{20}",
    "a Hugging Face token": r"\bhf_[0-9A-Za-z]{30,}\b",
    "an OpenAI key": r"\bsk-(?:proj-|svcacct-)?[0-9A-Za-z_-]{40,}",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{20,}",
    "a JSON web token": r"\beyJ[0-9A-Za-z_-]{15,}\.eyJ[0-9A-Za-z_-]{15,}\.[0-9A-Za-z_-]{20,}",
    "a webhook secret": r"\bwhsec_[0-9A-Za-z+/]{32,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s:/@'\"{}$<>]+:[^\s:/@'\"{}$<>]{6,}@[A-Za-z0-9.-]+",
}
KNOWN = {
    # The example of the Standard Webhooks specification itself.
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    # An address that webhooks refuse, in their test.
    "https://user:secret@example.com",
}
"""What looks like a secret and is public."""


def found_in(text: str) -> list[str]:
    """What the text holds, as `shape in line N`; never the secret itself."""
    found = []
    for name, shape in SHAPES.items():
        for match in re.finditer(shape, text, flags=re.M):
            if match[0] not in KNOWN:
                found.append(f"{name} in line {text.count(chr(10), 0, match.start()) + 1}")
    return found


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout"
)
def test_no_tracked_file_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60, check=True)
    read, found = 0, []
    for name in filter(None, listed.stdout.decode().split("\0")):
        file = ROOT / name
        if not file.is_file() or file.is_symlink():
            continue
        content = file.read_bytes()
        if b"\0" in content[:8192]:
            continue  # weights and pictures
        read += 1
        found += [f"{name}: {what}" for what in found_in(content.decode("utf-8", "replace"))]
    assert read > 300
    assert found == []


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN " + "PRIVATE KEY-----",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        pytest.param(new_key(), id="a key of this service"),
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "hf_" + "a" * 34,
        "ghp_" + "a" * 36,
        "sk-proj-" + "a" * 60,
        "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 30,
        "whsec_" + "A" * 32,
        "https://user:" + "hunter22@example.org",
    ],
)
def test_the_scan_would_find_one(secret: str) -> None:
    assert found_in(f"x = 1\n{secret}\n")
    assert secret not in "".join(found_in(secret))
