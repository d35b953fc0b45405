"""Keys that are read again while requests are compared with them."""

from __future__ import annotations

import hmac
import threading
from pathlib import Path

import pytest

from kandinsky_runtime.serving import security
from kandinsky_runtime.serving.security import Keys

KEY, OTHER = "first-key-of-sixteen", "second-key-of-sixteen"


def test_a_signal_may_come_during_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler runs in the thread that it interrupts: a lock which that thread holds is never released."""
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{OTHER}")
    keys = Keys(file)

    def interrupted(one: bytes, other: bytes) -> bool:
        keys.reload()
        return hmac.compare_digest(one, other)

    found: list[str | None] = []
    monkeypatch.setattr(security, "hmac", type("hmac", (), {"compare_digest": staticmethod(interrupted)}))
    thread = threading.Thread(target=lambda: found.append(keys.owner({"authorization": f"Bearer {KEY}"})), daemon=True)
    thread.start()
    thread.join(10)
    assert len(found) == 1
    assert found[0]
