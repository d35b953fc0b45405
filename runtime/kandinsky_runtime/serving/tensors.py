"""The tensors of a model, as the Open Inference Protocol and Triton have them.

Inputs are PROMPT, NEGATIVE_PROMPT, IMAGE and MASK: texts and the contents of files, one element each. Outputs are
IMAGE, the files of the results, and SEED, their seeds as 64-bit integers. All other fields of `/v1/images/edits`, such
as `seed` or `num_inference_steps`, are parameters of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kandinsky_runtime.bundle.manifest import INPAINT
from kandinsky_runtime.serving.fields import EDITS, GENERATIONS, Asked, FieldError, read_fields, whole
from kandinsky_runtime.serving.jobs import Job

TEXTS, FILES = ("PROMPT", "NEGATIVE_PROMPT"), ("IMAGE", "MASK")
OUTPUTS = ("IMAGE", "SEED")
_LARGEST_SEED = 2**63 - 1
_LONGEST_TIMEOUT = 10**15  # microseconds
_NO_FIELDS = ("binary_data_output", "priority", "sequence_id", "sequence_start", "sequence_end")


def inputs_of(task: str) -> tuple[str, ...]:
    """The names of a task's inputs; a plain decoder takes no mask."""
    return (*TEXTS, *(FILES if task == INPAINT else ("IMAGE",)))


def read_request(
    model: str, task: str, texts: Mapping[str, str], files: Mapping[str, bytes], parameters: Mapping[str, Any],
    most_steps: int,
) -> tuple[str, Asked]:  # fmt: skip
    """The endpoint of the image API that a request is one of, and what it asks for.

    Args:
        model, task: the model's name, and its task.
        texts, files: the inputs that were given, by name in lower case.
        parameters: the request's parameters: fields, and `timeout` in microseconds.
        most_steps: the most denoising steps that are taken.

    Raises:
        FieldError: something cannot be used.
    """
    fields = {name: value for name, value in parameters.items() if name not in _NO_FIELDS}
    if fields.get("model", model) != model:
        raise FieldError("model", f"the parameter model differs from the model of the request, {model}; leave it out")
    for name in texts:
        if name in fields:
            raise FieldError(name, f"{name} is there twice, as an input and as a parameter; give it once")
    if "timeout" in fields:
        microseconds = whole("timeout", fields.pop("timeout"), 0, _LONGEST_TIMEOUT)
        if microseconds:  # 0 is none, as in Triton
            fields["timeout"] = microseconds / 1e6
    endpoint = EDITS if files or task == INPAINT else GENERATIONS
    asked = read_fields(endpoint, fields | dict(texts) | {"model": model}, dict(files), most_steps=most_steps)
    if asked.stream:
        raise FieldError("stream", "this interface has no streams; leave stream out")
    seed, more = asked.options.get("seed"), asked.options.get("num_images_per_prompt", 1) - 1
    seeds = seed if isinstance(seed, tuple) else [seed + more] if isinstance(seed, int) else []
    last = max((item for item in seeds if isinstance(item, int)), default=0)
    if last > _LARGEST_SEED:
        raise FieldError("seed", f"the last seed is {last}; the output SEED, of 64-bit integers, holds {_LARGEST_SEED}")
    return endpoint, asked


def utf8(name: str, raw: bytes) -> str:
    """The text of an input.

    Raises:
        FieldError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FieldError(name, f"{name} is not UTF-8: {error}") from None


def seeds_of(job: Job) -> list[int]:
    """The seeds of a job's results; -1 for noise that has none."""
    return [] if job.output is None else [-1 if seed is None else seed for seed in job.output.seeds]
