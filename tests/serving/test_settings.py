"""Values of a wrong type in a settings file are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.settings import gather


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("host = 5", "host is 5; expected a text"),
        ("keys = 5", "keys is 5; expected a text"),
        ('keys = ["a"]', r"keys is \['a'\]; expected a text"),
        ("keys = true", "keys is True; expected a text"),
        ("state = 7", "state is 7; expected a text"),
        ('state = ["a"]', r"state is \['a'\]; expected a text"),
        ("size = 512", 'size is 512: expected a text such as "768x512", or a list of them'),
        ("size = [512]", r'size is \[512\]: expected a text such as "768x512"'),
        ("size = [[512, 512]]", r'size is \[\[512, 512\]\]: expected a text such as "768x512"'),
        ("size = {a = 1}", 'expected a text such as "768x512"'),
        ("size = true", 'expected a text such as "768x512"'),
    ],
)
def test_values_of_a_wrong_type(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(line)
    with pytest.raises(UsageError, match=message):
        gather({}, {}, file)


@pytest.mark.parametrize("line", ['size = "64x64,128x96"', 'size = ["64x64", "128x96"]'])
def test_sizes(tmp_path: Path, line: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(line)
    assert gather({}, {}, file)[1].sizes == ((64, 64), (128, 96))
