"""The parent's side: the contestants, each a process in an environment of its own that computes only on request."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

HERE = Path(__file__).parent
LIMIT = "matrix product"


@dataclass(frozen=True)
class Entry:
    """A contestant: its file, the environment that it needs, and its kind."""

    file: str
    environment: str
    kind: str = ""


PEERS: Mapping[str, Entry] = {
    "torch eager bf16": Entry("torch_diffusers.py", "torch", "eager:bf16"),
    "torch.compile bf16": Entry("torch_diffusers.py", "torch", "compile:bf16"),
    "torch eager fp32": Entry("torch_diffusers.py", "torch", "eager:fp32"),
    "ppdiffusers eager fp32": Entry("eager_ppdiffusers.py", "paddle"),
    "paddle inference fp32": Entry("paddle_inference.py", "paddle", "fp32"),
    "paddle inference onednn": Entry("paddle_inference.py", "paddle", "onednn"),
    "paddle inference onednn bf16": Entry("paddle_inference.py", "paddle", "onednn-bf16"),
    "onnxruntime fp32": Entry("onnx_runtime.py", "ort"),
}


class LeftOut(Exception):
    """A contestant that cannot take part; its text is the reason."""


class Contestant:
    """A running contestant; also a context manager.

    Raises:
        LeftOut: it could not be loaded, or its work failed.
    """

    def __init__(self, entry: Entry, python: str, job: Mapping[str, Any]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        command = [python, str(HERE / entry.file), json.dumps({**job, "kind": entry.kind})]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._stdin, self._stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self.versions: dict[str, str] = self._answer()["ready"]

    def run(self, work: str) -> dict[str, Any]:
        """Do a work: `seconds`, and for a job `steps`."""
        self._stdin.write(work + "\n")
        self._stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        with self._process:  # closes its pipes and waits
            self._process.kill()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it ended: {self._last_words()}"}
        if "error" in answer:
            reason = answer["error"]
            self.close()
            raise LeftOut(reason.strip().splitlines()[0])
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        return (self._log.read().strip().splitlines() or ["nothing was said"])[-1]

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
