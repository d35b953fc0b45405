"""A fake of `tensorrt`: it accepts the calls of a version's published API only.

Its engines compute what the fake bundle's graphs compute, on the fake GPU. A class has the methods and properties of
the vendor's bindings; those that the project does not use raise an error. An ONNX file is one line, `COMPONENT graph`,
and an engine a line of JSON.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime import fake_bundle, vendor_api
from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.vendor_api import NotInTheApi

ACTIVATIONS = 4096


class FakeTensorRT:
    """The library. `failures` maps "parse", "build", "load", "refit", "context" or "run" to the text that is logged."""

    def __init__(
        self, cuda: FakeCuda, version: str = vendor_api.TENSORRT_VERSIONS[-1], reports: str | None = None
    ) -> None:
        self.cuda = cuda
        self.failures: dict[str, str] = {}
        self.built: list[dict[str, Any]] = []
        self.interrupt_at: int | None = None
        self.executed = 0
        self.contexts = 0
        self.timing_caches: list[bytes] = []
        self.module = self._module(vendor_api.TABLE["tensorrt"][version])
        self.module.__version__ = reports or version

    def _module(self, table: dict[str, Any]) -> types.ModuleType:
        module = types.ModuleType("tensorrt")
        module.__spec__ = ModuleSpec("tensorrt", None)
        vars(module).update(vendor_api.enums(table["enums"]))
        for name, members in table["classes"].items():
            setattr(module, name, self._class(name, members, BEHAVIOUR.get(name, {})))
        for level, severity in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")):
            setattr(module.ILogger, severity, level)
        types_of = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}
        module.nptype = lambda kind: types_of[kind.name]
        return module

    def _class(self, name: str, members: dict[str, Any], behaviour: dict[str, Callable[..., Any]]) -> type:
        library, readable = self, members["properties"]
        space: dict[str, Any] = {}
        for method, texts in members["methods"].items():
            space[method] = _method(f"{name}.{method}", texts, behaviour)
        for item in readable:
            space[item] = _property(name, item, readable[item], behaviour)

        def set_attribute(self: Any, key: str, value: Any) -> None:
            if type(self).__name__ == name and not key.startswith("_") and readable.get(key) != "rw":
                raise NotInTheApi(f"{name}.{key} cannot be set")
            object.__setattr__(self, key, value)

        return type(name, (), space | {"__setattr__": set_attribute, "_library": library})

    def failed(self, log: Any, what: str) -> bool:
        """Whether this fails; if so, the failure is logged."""
        if what not in self.failures:
            return False
        log.log(self.module.ILogger.ERROR, self.failures[what])
        return True


def _method(name: str, signatures: list[str], behaviour: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    act = behaviour.get(name.partition(".")[2])

    def call(*args: Any, **kwargs: Any) -> Any:
        vendor_api.check_call(name, signatures, args, kwargs)
        if act is None:
            if name.endswith("__init__"):
                return None
            raise NotImplementedError(f"the fake of TensorRT does not implement {name}")
        return act(*args, **kwargs)

    return call


def _property(owner: str, name: str, access: str, behaviour: dict[str, Callable[..., Any]]) -> property:
    def read(self: Any) -> Any:
        if name in behaviour:
            return behaviour[name](self)
        return self.__dict__[name]

    def write(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    return property(read, write if access == "rw" else None)


def _make(maker: Any, name: str, **attributes: Any) -> Any:
    """An object that only the library makes."""
    vendor = getattr(maker._library.module, name)
    made = vendor.__new__(vendor)
    for key, value in attributes.items():
        object.__setattr__(made, f"_{key}", value)
    return made


# -- building --


def _remember(key: str) -> Callable[..., None]:
    def act(self: Any, *args: Any) -> None:
        object.__setattr__(self, f"_{key}", args)

    return act


def _make_builder(self: Any, logger: Any) -> None:
    if self._library.failed(logger, "builder"):
        raise TypeError("pybind11::init(): factory function returned nullptr")  # like the bindings
    _remember("made_of")(self, logger)


def _create_network(self: Any, flags: int = 0) -> Any:
    strong = 1 << int(self._library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return _make(self, "INetworkDefinition", strongly_typed=bool(flags & strong))


def _create_config(self: Any) -> Any:
    flags = {self._library.module.BuilderFlag.TF32}
    return _make(self, "IBuilderConfig", flag_set=flags, limits={}, profiles=[], cache=None)


def _parse(self: Any, model: str) -> bool:
    network, log = self._made_of
    if "parse" in self._library.failures:
        object.__setattr__(self, "_errors", [self._library.failures["parse"]])
        return False
    network._component = Path(model).read_text().split()[0]
    return not self._library.failed(log, "read")


def _error(self: Any, index: int) -> Any:
    return _make(self, "ParserError", text=self._errors[index])


def _set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
    if cache._content.startswith(b"of another machine"):
        return False
    object.__setattr__(self, "_cache", cache)
    self._library.timing_caches.append(cache._content)
    return True


def _build(self: Any, network: Any, config: Any) -> bytes | None:
    (log,) = self._made_of
    monitor = config.progress_monitor
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing", "Building", 3)
    for step in range(3):
        if self._library.interrupt_at == step:
            monitor._bars["Timing"].update = _interrupt
        if not monitor.step_complete("Timing", step):
            return None
    monitor.phase_finish("Timing")
    monitor.step_complete("Building", 0)
    monitor.phase_finish("Building")
    if self._library.failed(log, "build"):
        return None
    description = {
        "component": network._component,
        "strongly_typed": network._strongly_typed,
        "flags": sorted(flag.name for flag in config._flag_set),
        "limits": config._limits,
        "profiles": [profile._shapes for profile in config._profiles],
    }
    config._cache._content = b"timings"
    self._library.built.append(description)
    return json.dumps(description).encode()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# -- running --


def _deserialize(self: Any, serialized_engine: Any) -> Any:
    (log,) = self._made_of
    if self._library.failed(log, "load"):
        return None
    plan = json.loads(bytes(serialized_engine))
    spec = fake_bundle.signatures()[plan["component"]]
    return _make(self, "ICudaEngine", plan=plan, spec=spec, weights=None)


def _refit_from_file(self: Any, model: str) -> bool:
    refitter, log = self._made_of
    refitter._model = model
    return not self._library.failed(log, "refit")


def _refit(self: Any) -> bool:
    engine, _ = self._made_of
    assert Path(self._model).read_text().split()[0] == engine._plan["component"]
    object.__setattr__(engine, "_weights", self._model)
    return True


def _tensors(engine: Any) -> list[Any]:
    return [*engine._spec.inputs, *engine._spec.outputs]


def _create_context(self: Any, strategy: Any) -> Any:
    library = self._library.module.ExecutionContextAllocationStrategy
    assert strategy == library.USER_MANAGED
    if "context" in self._library.failures:
        return None
    self._library.contexts += 1
    return _make(self, "IExecutionContext", engine=self, memory=None, profile=None, shapes={}, addresses={})


def _set_input_shape(self: Any, name: str, shape: tuple[int, ...]) -> bool:
    assert self._profile is not None, "the profile comes first"
    low, _, high = self._engine._plan["profiles"][self._profile][name]
    self._shapes[name] = shape
    return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))


def _set_profile(self: Any, profile_index: int, stream_handle: int) -> bool:
    assert stream_handle in self._library.cuda.streams
    object.__setattr__(self, "_profile", profile_index)
    return profile_index < len(self._engine._plan["profiles"])


def _set_address(self: Any, name: str, memory: int) -> bool:
    assert memory in self._library.cuda.allocated
    self._addresses[name] = memory
    return True


def _shape(self: Any, name: str) -> tuple[int, ...]:
    spec = self._engine._spec
    sizes = {
        dim: size
        for tensor in spec.inputs
        for dim, size in zip(tensor.dims, self._shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }
    return next(tensor for tensor in _tensors(self._engine) if tensor.name == name).shape(sizes)


def _execute(self: Any, stream_handle: int) -> bool:
    library = self._library
    assert self._engine._weights, "an engine without weights was run"
    assert self._memory[0] in library.cuda.allocated
    if "run" in library.failures:
        return False
    if "capture" in library.failures and library.cuda.streams[stream_handle].captured is not None:
        return False

    def work() -> None:
        library.executed += 1
        feeds = {tensor.name: _array(self, tensor.name) for tensor in self._engine._spec.inputs}
        for name, result in fake_bundle.GRAPHS[self._engine._plan["component"]](**feeds).items():
            _array(self, name)[...] = result

    library.cuda.enqueue(stream_handle, work)
    return True


def _array(context: Any, name: str) -> np.ndarray:
    shape = _shape(context, name)
    size = int(np.prod(shape)) * 4
    return context._library.cuda.buffer(context._addresses[name], size).view(np.float32).reshape(shape)


BEHAVIOUR: dict[str, dict[str, Callable[..., Any]]] = {
    "Builder": {
        "__init__": _make_builder,
        "create_network": _create_network,
        "create_builder_config": _create_config,
        "create_optimization_profile": lambda self: _make(self, "IOptimizationProfile", shapes={}),
        "build_serialized_network": _build,
    },
    "IOptimizationProfile": {
        "set_shape": lambda self, input, min, opt, max: self._shapes.update({input: [min, opt, max]}),
    },
    "IBuilderConfig": {
        "set_flag": lambda self, flag: self._flag_set.add(flag),
        "clear_flag": lambda self, flag: self._flag_set.discard(flag),
        "set_memory_pool_limit": lambda self, pool, pool_size: self._limits.update({pool.name: pool_size}),
        "add_optimization_profile": lambda self, profile: (
            -1 if "profile" in self._library.failures else self._profiles.append(profile) or len(self._profiles) - 1
        ),
        "create_timing_cache": lambda self, data: (
            None if data.startswith(b"garbage") else _make(self, "ITimingCache", content=data)
        ),
        "set_timing_cache": _set_timing_cache,
    },
    "ITimingCache": {"serialize": lambda self: self._content},
    "OnnxParser": {
        "__init__": _remember("made_of"),
        "parse_from_file": _parse,
        "get_error": _error,
        "num_errors": lambda self: len(getattr(self, "_errors", ())),
    },
    "ParserError": {
        "desc": lambda self: self._text,
        "node_name": lambda self: "conv_1",
        "node_operator": lambda self: "Conv",
    },
    "Runtime": {"__init__": _remember("made_of"), "deserialize_cuda_engine": _deserialize},
    "Refitter": {"__init__": _remember("made_of"), "refit_cuda_engine": _refit},
    "OnnxParserRefitter": {"__init__": _remember("made_of"), "refit_from_file": _refit_from_file},
    "ICudaEngine": {
        "num_io_tensors": lambda self: len(_tensors(self)),
        "get_tensor_name": lambda self, index: _tensors(self)[index].name,
        "get_tensor_dtype": lambda self, name: self._library.module.DataType[
            "HALF" if "types" in self._library.failures else "FLOAT"
        ],
        "device_memory_size_v2": lambda self: ACTIVATIONS,
        "create_execution_context": _create_context,
    },
    "IExecutionContext": {
        "set_device_memory": _remember("memory"),
        "set_optimization_profile_async": _set_profile,
        "set_input_shape": _set_input_shape,
        "set_tensor_address": _set_address,
        "get_tensor_shape": _shape,
        "execute_async_v3": _execute,
    },
}
