"""Errors cross the borders of processes: a pool of workers pickles what a worker raises."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

import kandinsky_runtime.serving.fields  # FieldError
import kandinsky_runtime.serving.jobs  # ServerStopped
from kandinsky_runtime.errors import BundleError, FaultList, Kandinsky22Error


def classes(base: type[Kandinsky22Error]) -> Iterator[type[Kandinsky22Error]]:
    """A class and all below it."""
    yield base
    for below in base.__subclasses__():
        yield from classes(below)


def made(error: type[Kandinsky22Error]) -> Kandinsky22Error:
    if issubclass(error, FaultList):
        return error("bundle b", ["one", "two"])
    if error is kandinsky_runtime.serving.jobs.ServerStopped:
        return error()
    return error("n", "bad") if error is kandinsky_runtime.serving.fields.FieldError else error("bad")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", dict.fromkeys(classes(Kandinsky22Error)), ids=lambda error: error.__name__)
def test_an_error_is_pickled_whole(error: type[Kandinsky22Error], protocol: int) -> None:
    before = made(error)
    before.__notes__ = ["a note"]
    for after in (pickle.loads(pickle.dumps(before, protocol)), copy.copy(before)):
        assert type(after) is error
        assert (str(after), after.args, vars(after)) == (str(before), before.args, vars(before))


def test_the_faults_are_pickled() -> None:
    after = pickle.loads(pickle.dumps(BundleError("bundle b", ["one", "two"])))
    assert (after.subject, after.faults) == ("bundle b", ("one", "two"))
    assert str(after) == "bundle b: 2 faults:\n  - one\n  - two"
