"""The exporter's errors cross the borders of processes, as the runtime's do."""

from __future__ import annotations

import pickle

import pytest

from kandinsky_export.errors import CheckpointError, DownloadError, ExportError
from kandinsky_runtime.errors import Kandinsky22Error

FAULTS = [f"tensor {number} is missing" for number in range(CheckpointError.MOST_LISTED + 5)]


@pytest.mark.parametrize(
    "before",
    [
        ExportError("bad"),
        DownloadError("bad"),
        CheckpointError("checkpoint c", FAULTS[:2]),
        CheckpointError("c", FAULTS),
    ],
    ids=["ExportError", "DownloadError", "two faults", "many faults"],
)
def test_an_error_is_pickled_whole(before: Kandinsky22Error) -> None:
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is type(before)
    assert (str(after), vars(after)) == (str(before), vars(before))
