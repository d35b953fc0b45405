"""A real `tritonserver`, from the wheel nvidia-pytriton, in a process of its own.

The wheel has Triton's core and its Python backend, and no backend of an engine. Its server starts without a GPU.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

from tests.free_ports import free_ports

pytriton = pytest.importorskip("pytriton", reason="nvidia-pytriton, which carries a Triton server, is not installed")

_WHEEL = Path(pytriton.__file__).parent / "tritonserver"
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = "triton_python_backend_stub"


class TritonServer:
    """Serves a model repository on free ports; a context manager that stops it.

    Attributes:
        http, grpc: its addresses, without a scheme.
        process: its process.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        backends = folder / "backends"
        shutil.copytree(_WHEEL / "backends", backends)
        stub = backends / "python" / _STUB
        shutil.copy(_WHEEL / "python_backend_stubs" / _VERSION / _STUB, stub)
        stub.chmod(0o755)
        http, grpc = free_ports(2)
        self.http, self.grpc = f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        self._log = folder / "log.txt"
        self._memory = f"k22-{os.getpid()}-{http}"
        libraries = [_WHEEL.parent.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR"))]
        environment = os.environ | {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),  # without the first, loading a model hangs
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the stub takes its packages from there
            "OMP_NUM_THREADS": "1",
        }
        command = [
            _WHEEL / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends}",
            "--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}",
            "--allow-metrics=false", "--exit-timeout-secs=20", "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._memory}",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait_ready(self, seconds: float = 60) -> None:
        """Wait until every model is ready."""
        end = time.monotonic() + seconds
        while not self._ready():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text(errors="replace")

    @property
    def stubs(self) -> list[int]:
        """The processes of the models."""
        return _children(self.process.pid)

    def stop(self, seconds: float = 40) -> int:
        """End it with SIGTERM; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            stubs = self.stubs
            self.process.kill()
            self.process.wait(10)
            for stub in stubs:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stub, signal.SIGKILL)
        for region in Path("/dev/shm").glob(f"{self._memory}*"):  # a model that was killed leaves them
            region.unlink(missing_ok=True)


def _children(process: int) -> list[int]:
    lists = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]
