"""The progress bar: a stderr that is missing or broken does not end the work."""

from __future__ import annotations

import errno
import io

import pytest

from kandinsky_runtime.progress import ProgressBar


class Broken(io.StringIO):
    """A stream that fails after so many writes."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    def write(self, text: str) -> int:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize("writes", range(8))
@pytest.mark.parametrize("leave", [True, False])
def test_a_broken_stream(writes: int, leave: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Broken(writes))
    assert list(ProgressBar(range(3), leave=leave, mininterval=0, miniters=1)) == [0, 1, 2]
    with ProgressBar(total=3, leave=leave, mininterval=0) as bar:
        for _ in range(3):
            bar.update()
        bar.set_postfix_str("more")


def test_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    with ProgressBar(total=3) as bar:
        bar.update()
        bar.set_postfix_str("more")
    assert bar.disable
