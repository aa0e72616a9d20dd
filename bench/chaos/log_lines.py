"""`DrawnAgain`: how many drawings were handed on inside the service, as its own log tells."""

from __future__ import annotations

import re
from pathlib import Path

_HANDED_ON = re.compile(rb"failed request [0-9a-f-]{36}|was left unfinished and is drawn again")
"""By the router to another replica or pool; by the jobs' new keeper to any pool."""


class DrawnAgain:
    """Counts the lines that tell of a drawing begun anew; each is counted once.

    Args:
        log_dir: Serve's logs, of all nodes.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._read: dict[Path, int] = {}

    def since_last(self) -> int:
        """Those since the last call. Blocks."""
        found = 0
        for file in self._log_dir.glob("replica_*.log"):
            with file.open("rb") as lines:
                lines.seek(self._read.get(file, 0))
                new = lines.read()
            whole = new.rfind(b"\n") + 1  # the rest of a line may still come
            self._read[file] = self._read.get(file, 0) + whole
            found += len(_HANDED_ON.findall(new[:whole]))
        return found
