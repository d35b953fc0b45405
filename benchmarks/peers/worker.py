"""A contestant's side: a process that loads a model, waits its turn, and answers how long its work took.

The parent gives the job as JSON in the first argument and writes the name of a work on each line of stdin; every answer
is one line of JSON on stdout: first {"ready": versions}, then {"seconds": …} and what else the work returns, or
{"error": …}. Whatever libraries print goes to stderr. Standard library only: each contestant has its own environment.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], Any]
Job = Mapping[str, Any]
"""size, height, width (pixels), kind, bundle, configs (by model), embed_width, factor, steps, product."""


def serve(make: Callable[[Job], tuple[dict[str, str], Mapping[str, Work]]]) -> None:
    """Answer until stdin ends.

    Args:
        make: loads a job; returns versions and the works by name: `unet` (a guidance batch of 2), `decode` (one
            picture), `job` (a whole run, which returns {"steps": seconds of each whole step}), or others.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        versions, works = make(json.loads(sys.argv[1]))
    except Exception as error:  # the parent leaves this contestant out, and says why
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(ready=versions, works=sorted(works))
    for line in sys.stdin:
        try:
            start = time.perf_counter()
            result = works[line.strip()]()
            seconds = time.perf_counter() - start
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")
        else:
            answer(seconds=seconds, **(result if isinstance(result, dict) else {}))


def intervals(moments: list[float]) -> dict[str, list[float]]:
    """Seconds of each whole step, from the moments at which steps ended."""
    return {"steps": [after - before for before, after in itertools.pairwise(moments)]}


def sequence(encode: Work, unet: Work, decode: Work, steps: int) -> dict[str, list[float]]:
    """A whole run of graphs alone: no scheduler, no guidance, no picture, which is in its favour."""
    encode()
    moments = []
    for _ in range(steps):
        unet()
        moments.append(time.perf_counter())
    decode()
    return intervals(moments)
