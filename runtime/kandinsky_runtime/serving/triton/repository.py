"""Writes a model repository for Triton: for each bundle `NAME/config.pbtxt` and `NAME/1/model.py`.

The format of both: https://github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.tensors import inputs_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_MODEL = '''\
"""Written by `k22 triton`. The step loop is that of `k22 serve`, in the package kandinsky22-deploy."""

import json
from typing import Any

import triton_python_backend_utils as backend

from kandinsky_runtime.errors import Kandinsky22Error
from kandinsky_runtime.serving.triton.model import TritonModel


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        try:
            self._model = TritonModel(backend, json.loads(args["model_config"]))
        except Kandinsky22Error as error:
            raise backend.TritonModelException(str(error)) from error

    def execute(self, requests: list[Any]) -> None:
        self._model.execute(requests)

    def finalize(self) -> None:
        self._model.close()
'''


def check_name(name: str) -> None:
    """Refuse a name that Triton could not use as a folder.

    Raises:
        UsageError: it has other characters than letters, digits, `.`, `_` and `-`, or begins with one of these.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a model's name; take letters, digits, '.', '_' and '-', such as inpaint=FOLDER"
        )


def check_place(repository: Path, name: str) -> None:
    """Refuse a model that cannot be written, before anything is.

    Raises:
        UsageError: the model's folder is there already, or the repository is no folder.
    """
    target = repository / name
    if target.exists():
        raise UsageError(f"{target} is there already; remove it, or choose another --out or name")
    existing = next(path for path in (repository, *repository.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--out {repository}: {existing} is a file; choose a folder")


def write_model(repository: Path, name: str, task: str, parameters: Mapping[str, str]) -> Path:
    """Write a model's folder, which is there whole or not at all; return it.

    Args:
        repository: the folder of all models; made if it is not there.
        name: the model's name.
        task: the bundle's task.
        parameters: the texts of its parameters.

    Raises:
        UsageError: see `check_place`.
    """
    check_place(repository, name)
    target = repository / name
    repository.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=repository))
    try:
        partial.chmod(0o755)
        (partial / "1").mkdir()
        (partial / "1" / "model.py").write_text(_MODEL, encoding="utf-8")
        (partial / "config.pbtxt").write_text(_config(name, task, parameters), encoding="utf-8")
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _config(name: str, task: str, parameters: Mapping[str, str]) -> str:
    """The model's configuration in protobuf's text format."""

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + _CONTROL.sub(lambda found: f"\\{ord(found.group()):03o}", escaped) + '"'

    def tensors(kind: str, entries: list[str]) -> str:
        return f"{kind} [\n" + ",\n".join(f"  {{ {entry} }}" for entry in entries) + "\n]\n"

    inputs = [f'name: "{item}" data_type: TYPE_STRING dims: [ 1 ] optional: true' for item in inputs_of(task)]
    outputs = ['name: "IMAGE" data_type: TYPE_STRING dims: [ -1 ]', 'name: "SEED" data_type: TYPE_INT64 dims: [ -1 ]']
    given = "".join(
        f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(text)} }} }}\n"
        for key, text in parameters.items()
    )
    return (
        f"# Written by `k22 triton`.\n"
        f"name: {quoted(name)}\n"
        'backend: "python"\n'
        "max_batch_size: 0\n"
        f"{tensors('input', inputs)}{tensors('output', outputs)}"
        "# One process with one copy of the weights. The runtime opens the device itself: see the parameter device.\n"
        "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
        f"{given}"
    )
