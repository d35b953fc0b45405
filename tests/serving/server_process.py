"""A real server in a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (96, 64)  # width, height


class Server:
    """`k22 serve` on a free port; a context manager that stops it.

    Attributes:
        url: its address.
        process: its process.
    """

    def __init__(
        self, *bundles: str | Path, folder: Path, flags: tuple[str, ...] = (), env: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = folder / f"stderr-{time.monotonic_ns()}.txt"
        command = [
            sys.executable,
            "-c",
            "import sys; from kandinsky_runtime.cli import main; sys.exit(main())",
            "serve",
        ]
        command += [*map(str, bundles), "--port", "0", "--threads", "1"]
        if "--size" not in flags:
            command += ["--size", f"{SIZE[0]}x{SIZE[1]}"]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, *flags], stdout=subprocess.PIPE, stderr=errors, env=os.environ | dict(env or {}), text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.strip().rpartition(" at ")[2]
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until the server takes requests."""
        end = time.monotonic() + seconds
        while self.status("/readyz") != 200:
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < end, self.errors
            time.sleep(0.05)

    def status(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        """The status of a GET, 0 if the server does not answer."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    @property
    def errors(self) -> str:
        """What the server has written to stderr."""
        return self._errors.read_text()

    @property
    def errors_raw(self) -> bytes:
        """The same, byte for byte."""
        return self._errors.read_bytes()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def mask(size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask whose middle is white."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[size[1] // 4 : size[1] // 2, size[0] // 4 : size[0] // 2] = 255
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of a picture's file."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image).copy()
