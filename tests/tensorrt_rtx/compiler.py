"""Compiles ONNX graphs with NVIDIA's own TensorRT-RTX, for a GPU generation that is named and not there.

    python compiler.py < jobs > results

A program of its own, for the environment `rtx`: it loads the vendor's libraries and nothing of this project. It reads
one job a line, {"graph": FILE, "folder": FOLDER, "target": "sm89", "options": {NAME: VALUE}}, and writes one result a
line: {"seconds", "peak_bytes", "engines", "context_bytes", "messages"}, or {"error", "messages"}.

TensorRT-RTX compiles ahead of time without a GPU for processes that it takes for a sandboxed compiler. Three things
make it do so here. They are for checks alone; a machine with an RTX GPU needs none of them.

- Its libraries are linked against the driver. Stand-ins that answer every call with "no device" are made with the
  system's C compiler and loaded first (`load_driver_stand_ins`).
- Whether the process is a sandboxed compiler is a flag inside the plugin, set on Windows only (`enter_sandbox`).
- The GPU generation is an entry of the environment's configuration, which ONNX Runtime's Python cannot give. So its C
  interface is called (`Compiler`).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROVIDER = b"NvTensorRTRTXExecutionProvider"
PLUGIN = "libonnxruntime_providers_nv_tensorrt_rtx.so"

FLAG = "IsWin32kLockdownActive"

# The driver's libraries: what its functions are called, and its status for "there is no device".
DRIVER = {"libcuda.so.1": (r"\bcu[A-Z]\w+", 100), "libnvidia-ml.so.1": (r"\bnvml\w+", 9)}

# Where the functions stand in OrtApi and OrtCompileApi (onnxruntime_c_api.h of version 24).
API_VERSION = 24
GET_ERROR_MESSAGE = 2
CREATE_SESSION_OPTIONS = 10
RELEASE_STATUS, RELEASE_SESSION_OPTIONS = 93, 100
GET_COMPILE_API = 294
CREATE_KEY_VALUE_PAIRS, ADD_KEY_VALUE_PAIR = 295, 296
REGISTER_LIBRARY = 301
GET_DEVICES = 303
APPEND_PROVIDER = 304
DEVICE_PROVIDER_NAME = 312
CREATE_ENVIRONMENT = 406
RELEASE_COMPILATION, CREATE_COMPILATION, SET_INPUT, SET_OUTPUT, SET_EMBED, COMPILE = 0, 1, 2, 4, 7, 8

WARNING = 2

Pointer, Text = ctypes.c_void_p, ctypes.c_char_p
Log = ctypes.CFUNCTYPE(None, Pointer, ctypes.c_int, Text, Text, Text, Text)


class CompileError(Exception):
    """TensorRT-RTX or ONNX Runtime refused."""


class EnvironmentOptions(ctypes.Structure):
    """OrtEnvCreationOptions."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("least_severity", ctypes.c_int32),
        ("name", Text),
        ("log", Log),
        ("log_param", Pointer),
        ("threading", Pointer),
        ("entries", Pointer),
    ]


class Compiler:
    """TensorRT-RTX as a compiler for one GPU generation; one for a process.

    Args:
        target: "sm86", "sm89", "sm120" or "sm121".

    Attributes:
        messages: warnings and errors of both libraries since they were last taken.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.messages: list[str] = []
        plugin = package("onnxruntime_ep_nv_tensorrt_rtx") / PLUGIN
        load_driver_stand_ins(plugin)
        ctypes.CDLL(str(next(plugin.parent.glob("libcudart.so.*"))), ctypes.RTLD_GLOBAL)
        __import__("onnxruntime_ep_nv_tensorrt_rtx")  # makes the links that the vendor's libraries look for
        core = next((package("onnxruntime") / "capi").glob("libonnxruntime.so.1.*"))
        base = ctypes.CDLL(str(core), ctypes.RTLD_GLOBAL).OrtGetApiBase
        base.restype = ctypes.POINTER(Pointer)
        self._api = ctypes.CFUNCTYPE(ctypes.POINTER(Pointer), ctypes.c_uint32)(base()[0])(API_VERSION)
        table = _call(self._api, GET_COMPILE_API, result=Pointer)
        self._compile_api = ctypes.cast(table, ctypes.POINTER(Pointer))
        self._log = Log(self._keep)  # as long as the environment
        self._environment = self._make_environment(target)
        enter_sandbox(plugin)
        self._check(_call(self._api, REGISTER_LIBRARY, self._environment, PROVIDER, str(plugin).encode()))
        self._device = self._find_device()

    def compile(self, graph: Path, folder: Path, options: Mapping[str, str]) -> dict[str, Any]:
        """Compile a graph into engine files in `folder` and a graph of what is left.

        Args:
            graph: an ONNX file.
            folder: empty, or not there.
            options: the provider's, by name.

        Raises:
            CompileError: the graph cannot be compiled.
        """
        folder.mkdir(parents=True, exist_ok=True)
        context = folder.resolve() / "context.onnx"
        session, compilation = Pointer(), Pointer()
        began = time.perf_counter()
        try:
            self._check(_call(self._api, CREATE_SESSION_OPTIONS, ctypes.byref(session)))
            names, values = (
                (Text * len(options))(*(text.encode() for text in texts))
                for texts in (options.keys(), options.values())
            )
            devices = (Pointer * 1)(self._device)
            append = (session, self._environment, devices, ctypes.c_size_t(1), names, values)
            self._check(_call(self._api, APPEND_PROVIDER, *append, ctypes.c_size_t(len(options))))
            new = (CREATE_COMPILATION, self._environment, session, ctypes.byref(compilation))
            self._check(_call(self._compile_api, *new))
            self._check(_call(self._compile_api, SET_INPUT, compilation, str(graph.resolve()).encode()))
            self._check(_call(self._compile_api, SET_OUTPUT, compilation, str(context).encode()))
            self._check(_call(self._compile_api, SET_EMBED, compilation, ctypes.c_bool(False)))
            self._check(_call(self._compile_api, COMPILE, self._environment, compilation))
        finally:
            _call(self._compile_api, RELEASE_COMPILATION, compilation, result=None)
            _call(self._api, RELEASE_SESSION_OPTIONS, session, result=None)
        return {
            "seconds": time.perf_counter() - began,
            "peak_bytes": peak_bytes(),
            "engines": [str(file) for file in sorted(folder.glob("*.engine"))],
            "context_bytes": context.stat().st_size,
        }

    def take_messages(self) -> list[str]:
        """The messages so far."""
        taken, self.messages = self.messages, []
        return taken

    def _make_environment(self, target: str) -> Pointer:
        entries = Pointer()
        _call(self._api, CREATE_KEY_VALUE_PAIRS, ctypes.byref(entries), result=None)
        target_entry = b"ep_factory." + PROVIDER + b".nv_target_sm"
        for name, value in ((b"allow_virtual_devices", b"1"), (target_entry, target.encode())):
            _call(self._api, ADD_KEY_VALUE_PAIR, entries, name, value, result=None)
        options = EnvironmentOptions(API_VERSION, WARNING, b"k22", self._log, None, None, entries)
        environment = Pointer()
        create = (CREATE_ENVIRONMENT, ctypes.byref(options), ctypes.byref(environment))
        self._check(_call(self._api, *create))
        return environment

    def _find_device(self) -> int:
        devices, count = ctypes.POINTER(Pointer)(), ctypes.c_size_t()
        found = (self._environment, ctypes.byref(devices), ctypes.byref(count))
        self._check(_call(self._api, GET_DEVICES, *found))
        for number in range(count.value):
            device = devices[number]
            if _call(self._api, DEVICE_PROVIDER_NAME, Pointer(device), result=Text) == PROVIDER:
                return int(device or 0)
        raise CompileError(f"the plugin describes no device: does this version know {self.target}?")

    def _check(self, status: int | None) -> None:
        if status:
            text = _call(self._api, GET_ERROR_MESSAGE, Pointer(status), result=Text).decode(errors="replace")
            _call(self._api, RELEASE_STATUS, Pointer(status), result=None)
            raise CompileError(text)

    def _keep(self, _param: Any, severity: int, _category: bytes, _name: bytes, where: bytes, text: bytes) -> None:
        self.messages.append(f"{'IWEF'[severity - 1]} {where.decode()}: {text.decode(errors='replace')}")


def _call(table: Any, index: int, *values: Any, result: Any = Pointer) -> Any:
    """Call a function of an interface's table; texts are bytes."""
    return ctypes.CFUNCTYPE(result)(table[index])(*values)


def peak_bytes() -> int:
    """This process's resident memory at its highest; getrusage counts that of the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def package(name: str) -> Path:
    """The folder of an installed package, which is not loaded."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CompileError(f"{name} is not installed in {sys.prefix}")
    return Path(spec.submodule_search_locations[0])


def load_driver_stand_ins(plugin: Path) -> None:
    """Load libraries named as the driver's, whose functions say that there is no device."""
    libraries = [str(file) for file in plugin.parent.glob("*.so*")]
    wanted = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        for name, (pattern, no_device) in DRIVER.items():
            functions = sorted(set(re.findall(pattern, wanted)) - {"cuGetErrorString"})
            source = "".join(f"int {function}(void) {{ return {no_device}; }}\n" for function in functions)
            if name == "libcuda.so.1":
                source += 'int cuGetErrorString(int e, const char **text) { *text = "no device"; return 0; }\n'
            command = ["cc", "-shared", "-fPIC", "-w", "-x", "c", "-", f"-Wl,-soname,{name}", "-o", f"{folder}/{name}"]
            subprocess.run(command, input=source.encode(), check=True)
            ctypes.CDLL(f"{folder}/{name}", ctypes.RTLD_GLOBAL)


def enter_sandbox(plugin: Path) -> None:
    """Set the plugin's flag that says that the process is a sandboxed compiler."""
    ctypes.CDLL(str(plugin))
    symbols = subprocess.run(["readelf", "-sW", str(plugin)], capture_output=True, text=True, check=True).stdout
    maps = Path("/proc/self/maps").read_text().splitlines()
    start = min(int(line.partition("-")[0], 16) for line in maps if line.endswith("/" + plugin.name))
    flags = [line.split()[1] for line in symbols.splitlines() if FLAG in line and " OBJECT " in line]
    if not flags:
        raise CompileError(f"{plugin.name} has no flag {FLAG}: this harness is for version 0.5.0")
    for flag in flags:
        ctypes.c_ubyte.from_address(start + int(flag, 16)).value = 1


def results(jobs: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """The result of each job; all of one target."""
    compiler = None
    for job in jobs:
        compiler = compiler or Compiler(job["target"])
        if job["target"] != compiler.target:
            raise SystemExit(f"a process compiles for one target: this one for {compiler.target}, not {job['target']}")
        try:
            result = compiler.compile(Path(job["graph"]), Path(job["folder"]), job["options"])
        except CompileError as error:
            result = {"error": str(error)}
        yield {**result, "messages": compiler.take_messages()}


def main() -> None:
    # The libraries write to standard output, too: results have a channel of their own.
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for result in results(json.loads(line) for line in sys.stdin):
            print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    main()
