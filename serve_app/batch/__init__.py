"""``imagine batch``: a file of prompts drawn through a running service, into a folder or an object store.

::

    prompts.py   the file: its lines, what names each of them, and what is wrong with them
    client.py    the service's jobs over HTTP: pauses when it is told to, gives up when nothing answers any more
    output.py    the pictures, one record per line, and the manifest
    run.py       the lines that are missing, some at a time

No line is drawn twice: a line is a job with an ``Idempotency-Key`` made of its content, so a run that was killed finds
the jobs it had sent. No line is lost: its record is written after its pictures, and a line without one is missing.
"""

from serve_app.batch.client import JobsClient, ServiceUnreachable
from serve_app.batch.output import BatchOutput, LineError, LineImage, LineRecord
from serve_app.batch.prompts import PromptLine, PromptsInvalid, read_prompts
from serve_app.batch.run import BatchRun, Observer, Summary

__all__ = [
    "BatchOutput",
    "BatchRun",
    "JobsClient",
    "LineError",
    "LineImage",
    "LineRecord",
    "Observer",
    "PromptLine",
    "PromptsInvalid",
    "ServiceUnreachable",
    "Summary",
    "read_prompts",
]
