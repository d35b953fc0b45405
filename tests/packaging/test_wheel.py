"""What a wheel has in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from kandinsky_export.cli import main as k22_export
from kandinsky_runtime.bench import report
from kandinsky_runtime.cli import main as k22

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"kandinsky_runtime": ROOT / "runtime", "kandinsky_export": ROOT / "export"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, cwd=folder)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def described(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def test_it_has_every_file_of_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    expected = {
        path.relative_to(root).as_posix()
        for package, root in PACKAGES.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for needed in ("kandinsky_runtime/serving/page.html", "kandinsky_runtime/py.typed", "kandinsky_export/py.typed"):
        assert needed in expected
    assert any(name.startswith("kandinsky_export/drawn_cats/") for name in expected)
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_its_weights_are_at_most_25_megabytes(wheel: zipfile.ZipFile) -> None:
    weights = [item.file_size for item in wheel.infolist() if item.filename.endswith(".safetensors")]
    assert len(weights) == 5
    assert sum(weights) <= 25_000_000


def test_its_base_needs_three_packages(described: Message) -> None:
    requirements = [Requirement(text) for text in described.get_all("Requires-Dist", [])]
    assert {item.name.lower() for item in requirements if item.marker is None} == {"numpy", "pillow", "tqdm"}


def test_its_license_and_commands(wheel: zipfile.ZipFile, described: Message) -> None:
    assert described["License-Expression"] == "Apache-2.0"
    (license_file,) = [name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    assert wheel.read(license_file) == (ROOT / "LICENSE").read_bytes()
    (commands,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert {"k22", "k22-export"} <= {line.split(" = ")[0] for line in wheel.read(commands).decode().splitlines()}


def test_the_version_has_one_source(described: Message, capsys: pytest.CaptureFixture[str]) -> None:
    """pyproject.toml; no module repeats it."""
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    version = line.split('"')[1]
    assert described["Version"] == metadata.version("kandinsky22-deploy") == version
    for main in (k22, k22_export):
        with pytest.raises(SystemExit):
            main(["--version"])
        assert capsys.readouterr().out.split()[-1] == version
    assert report.environment()["kandinsky22-deploy"] == version
    for root in PACKAGES.values():
        assert not [path for path in root.rglob("*.py") if f'"{version}"' in path.read_text(encoding="utf-8")]
