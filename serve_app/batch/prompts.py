"""The prompts file: JSON lines with the fields of ``POST /api/jobs``, or plain text with a prompt per line."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.api.jobs import JobRequest
from serve_app.errors import ImagineError
from serve_app.limits import MAX_SEED

FIELDS = frozenset(JobRequest.model_fields)
"""What a line may say, beside ``id``."""

# They say how a picture is asked for, not which: changing them draws nothing anew.
_NOT_OF_THE_PICTURE = frozenset({"priority", "deadline_s", "webhook_url", "preview_every"})
_MAX_PROBLEMS = 20
_SLUG_CHARS = 40


class PromptsInvalid(ImagineError):
    """The prompts file cannot be read as one; says every line at fault, up to a bound."""


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One line of the file.

    Attributes:
        number: Of the line, from 1.
        id: The line's own ``id``, or None.
        request: Body of ``POST /api/jobs``, seed included.
        key: 32 hex digits of SHA-256 over the id, what of the request makes the picture, and how many equal lines
            stand before this one. It stays when other lines come or go, and changes when this one is edited.
        stem: Start of the names of its pictures.
    """

    number: int
    id: str | None
    request: dict[str, Any]
    key: str
    stem: str

    def picture_name(self, index: int) -> str:
        """File name of picture `index`; the index is left out where there is only one."""
        suffix = f"-{index}" if self.request.get("num_images", 1) > 1 else ""
        return f"{self.stem}{suffix}.{self.request.get('format', 'png')}"

    def idempotency_key(self, attempt: int) -> str:
        """Names the job of attempt `attempt` (from 1) at this line: sent again, it is the same job."""
        whole = json.dumps([self.key, self.request, attempt], sort_keys=True)
        return f"batch-{hashlib.sha256(whole.encode()).hexdigest()}"


def read_prompts(text: str, *, jsonl: bool | None = None, defaults: Mapping[str, Any]) -> list[PromptLine]:
    """Reads a prompts file; blank lines are skipped.

    A line without a seed gets one from its key, so that drawing the file again gives the same pictures and two equal
    lines give different ones. Values are not checked here: the service does that, and its word is final.

    Args:
        text: The file.
        jsonl: Whether lines are JSON; None: when the first one begins with a brace.
        defaults: Fields for the lines that do not say them.

    Raises:
        PromptsInvalid: A line is no JSON object, has no prompt, an unknown field or a value that cannot be sent, or an
            id stands twice; or there is no line at all.
    """
    # Not by str.splitlines, for which U+2028 and others that may stand in a prompt or in JSON's strings end a line too.
    numbered = enumerate(io.StringIO(text, newline=None), start=1)
    lines = [(number, line.strip()) for number, line in numbered if line.strip()]
    if not lines:
        raise PromptsInvalid("the prompts file is empty; write one prompt per line")
    if jsonl is None:
        jsonl = lines[0][1].startswith("{")
    found: list[PromptLine] = []
    problems: list[str] = []
    repeated: Counter[str] = Counter()
    lines_of_id: dict[str, int] = {}
    for number, line in lines:
        try:
            line_id, fields = _json_fields(line) if jsonl else (None, {"prompt": line})
            request = {**defaults, **fields}
            _refuse_unsendable({"id": line_id, **request})
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if line_id is not None and lines_of_id.setdefault(line_id, number) != number:
            problems.append(f"line {number}: id: {line_id!r} stands in line {lines_of_id[line_id]} too")
            continue
        found.append(_line(number, line_id, request, repeated))
    if problems:
        more = f"\n... and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise PromptsInvalid("\n".join(problems[:_MAX_PROBLEMS]) + more)
    return found


def _json_fields(line: str) -> tuple[str | None, dict[str, Any]]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError('not a JSON object, such as {"prompt": "a red fox"}')
    line_id = value.pop("id", None)
    if line_id is not None and (isinstance(line_id, bool) or not isinstance(line_id, str | int)):
        raise ValueError("id: must be text or a whole number")
    unknown = sorted(set(value) - FIELDS)
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown; known are id, {', '.join(sorted(FIELDS))}")
    prompt = value.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("prompt: must be text that says what to draw")
    # As in a request: null means absent.
    fields = {name: field for name, field in value.items() if field is not None}
    return None if line_id is None else str(line_id), fields


def _refuse_unsendable(fields: Mapping[str, Any]) -> None:
    """Python's JSON knows values that the service's, and UTF-8, do not: they would end the run, not the line.

    Raises:
        ValueError: There is one.
    """
    for name, value in fields.items():
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: holds half of a character (a lone surrogate)") from None
        except ValueError:
            raise ValueError(f"{name}: must not be infinite or NaN") from None


def _line(number: int, line_id: str | None, request: dict[str, Any], repeated: Counter[str]) -> PromptLine:
    picture = {name: value for name, value in request.items() if name not in _NOT_OF_THE_PICTURE}
    content = json.dumps([line_id, picture], sort_keys=True)
    key = hashlib.sha256(f"{repeated[content]}\n{content}".encode()).hexdigest()[:32]
    repeated[content] += 1
    request.setdefault("seed", int(key[:16], 16) % (MAX_SEED + 1))
    slug = re.sub(r"[^A-Za-z0-9]+", "-", line_id or request["prompt"])[:_SLUG_CHARS].strip("-").lower()
    return PromptLine(number, line_id, request, key, f"{slug or 'picture'}-{key[:12]}")
