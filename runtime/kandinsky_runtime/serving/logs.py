"""The log on stderr: one line for each request, as text or as JSON; prompts only if they are asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from starlette.types import Scope

from kandinsky_runtime.serving.fields import Asked
from kandinsky_runtime.serving.jobs import Job
from kandinsky_runtime.serving.settings import Settings

_requests = logging.getLogger("kandinsky_runtime.requests")
_QUIET = ("/livez", "/readyz", "/health", "/metrics", "/v2/health/live", "/v2/health/ready")


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON, with the entries of its `fields`."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry | getattr(record, "fields", {}))


def set_up_logs(settings: Settings, *, quiet: bool) -> None:
    """Write the log to stderr in the form that the settings ask for."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING if quiet else logging.INFO, force=True)
    for name in ("kandinsky_runtime.decoder", "kandinsky_runtime.pictures", "kandinsky_runtime.prior"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a run's notes go to its client


def log_request(settings: Settings, scope: Scope, status: int, seconds: float) -> None:
    """Log a request that was answered."""
    path, state = scope["path"], scope.get("state", {})
    if path in _QUIET and status < 400:
        return
    fields: dict[str, Any] = {
        "request_id": state.get("request_id"),
        "method": scope["method"],
        "path": path,
        "status": status,
        "seconds": round(seconds, 4),
    }
    if "error" in state:
        fields["error"] = state["error"]
    job, asked = state.get("job"), state.get("asked")
    if isinstance(job, Job):
        fields |= {
            "job": job.id, "model": job.model.name, "size": f"{job.size[0]}x{job.size[1]}", "steps": job.steps,
            "state": job.state, **{f"{name}_seconds": round(value, 4) for name, value in job.seconds.items()},
        }  # fmt: skip
    if isinstance(asked, Asked):
        if asked.user is not None:
            fields["user"] = asked.user
        if settings.log_prompts:
            fields["prompt"] = asked.options.get("prompt")
    if settings.log_format == "json":
        _requests.info("request", extra={"fields": fields})
    else:
        _requests.info(" ".join(f"{name}={_shown(value)}" for name, value in fields.items()))


def _shown(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if not text.isprintable() or any(mark in text for mark in ' "') else text
