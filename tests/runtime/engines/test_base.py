"""The base of every engine: checked runs, errors of vendors, options, and what is installed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.errors import (
    EngineError,
    EngineUnavailable,
    Kandinsky22Error,
    NonFiniteError,
    TensorError,
    UsageError,
)

SPEC = GraphSpec(
    inputs=(TensorSpec("x", "float32", ("batch", "width")),),
    outputs=(TensorSpec("y", "float32", ("batch", "2*width")),),
    ranges={"batch": Range(), "width": Range(max=8)},
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Doubler(Engine):
    """Returns y = [x, x]; a test may replace `act`."""

    name = "doubler"
    library = "numpy"
    distribution = "numpy"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "doubled"}
    act: ClassVar[Callable[..., Any]] = staticmethod(lambda x: {"y": np.concatenate([x, x], axis=1)})
    released = 0

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        for act in files.values():
            act()  # type: ignore[operator]

    def _run(self, feeds: Any) -> Any:
        return type(self).act(**feeds)

    def _release(self) -> None:
        self.released += 1


def doubler(options: EngineOptions = EngineOptions()) -> Doubler:  # noqa: B008
    return Doubler("part", SPEC, {}, options)


def failing(error: BaseException) -> Callable[..., Any]:
    def act(**_: Any) -> Any:
        raise error

    return act


# -- run --


def test_run() -> None:
    np.testing.assert_array_equal(doubler().run({"x": X})["y"], np.concatenate([X, X], axis=1))


def test_feeds_become_contiguous_and_are_never_modified(monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    act = Doubler.act
    monkeypatch.setattr(Doubler, "act", staticmethod(lambda x: got.append(x) or act(x)))
    x = np.asfortranarray(X)
    doubler().run({"x": x})
    assert got[0].flags.c_contiguous
    np.testing.assert_array_equal(x, X)
    doubler().run({"x": X})
    assert got[1] is X, "a contiguous array is not copied"


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({}, "part on doubler, step 2 takes the inputs x; got none"),
        ({"x": X[0]}, "part on doubler, step 2: `x` is (3,); expected 2 dimensions, x float32 (batch, width)"),
        ({"x": np.zeros((1, 9), np.float32)}, "part on doubler, step 2: `x` is (1, 9); width must be at most 8"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, Any], text: str) -> None:
    with pytest.raises(TensorError) as caught:
        doubler().run(feeds, during="step 2")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("outputs", "error", "text"),
    [
        ({}, EngineError, "part on doubler: returned no `y`; the manifest does not fit the graph: export the bundle"),
        ({"y": [1.0]}, EngineError, "part on doubler: returned no `y`"),
        ({"y": X}, EngineError, "part on doubler: `y` came out as float32 (2, 3); expected float32 (2, 6)"),
        (
            {"y": np.zeros((2, 6), np.float16)},
            EngineError,
            "part on doubler: `y` came out as float16 (2, 6); expected float32 (2, 6)",
        ),
        (
            {"y": np.array([[0, 1, np.nan, np.inf, -np.inf, 5]] * 2, np.float32)},
            NonFiniteError,
            "part on doubler: 6 of the 12 values of `y` are NaN or infinite: check the checkpoint and the",
        ),
    ],
)
def test_outputs_that_do_not_fit(
    outputs: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doubler, "act", staticmethod(lambda x: outputs))
    with pytest.raises(error, match=re.escape(text)):
        doubler().run({"x": X})


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), ValueError(), KeyError("k"), MemoryError(), ImportError("no")])
def test_vendor_errors_become_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "act", failing(error))
    with pytest.raises(EngineError, match="part on doubler, step 2 failed: .+") as caught:
        doubler().run({"x": X}, during="step 2")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [EngineUnavailable("too old"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "act", failing(error))
    engine = doubler()
    with pytest.raises(type(error)) as caught:
        engine.run({"x": X})
    assert caught.value is error
    engine.close()  # no lock is held


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("bad graph"), EngineError, "part cannot be loaded by doubler: bad graph"),
        (MemoryError(), EngineError, "part cannot be loaded by doubler: MemoryError"),
        (
            ImportError("libx.so"),
            EngineUnavailable,
            "engine doubler: numpy cannot be imported (libx.so): pip install numpy",
        ),
        (UsageError("unchanged"), UsageError, "unchanged"),
    ],
)
def test_failure_to_load(error: Exception, kind: type[Kandinsky22Error], text: str) -> None:
    with pytest.raises(kind) as caught:
        Doubler("part", SPEC, {"graph": failing(error)}, EngineOptions())  # type: ignore[dict-item]
    assert str(caught.value) == text


def test_files_that_the_variant_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "roles", ("graph", "weights"))
    with pytest.raises(EngineError) as caught:
        Doubler("part", SPEC, {"graph": Path("g")}, EngineOptions())
    assert str(caught.value) == (
        "engine doubler needs the files graph, weights of part; the bundle's variant has no weights: export the bundle"
        " again"
    )


def test_a_closed_engine() -> None:
    with doubler() as engine:
        engine.run({"x": X})
    engine.close()
    assert engine.released == 1
    with pytest.raises(EngineError, match="part on doubler: the engine is closed; load the graph again"):
        engine.run({"x": X})


def test_runs_of_several_threads_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    running, together = threading.Lock(), []

    def act(x: np.ndarray) -> dict[str, np.ndarray]:
        together.append(not running.acquire(blocking=False))
        threading.Event().wait(0.002)
        running.release()
        return {"y": np.concatenate([x, x], axis=1)}

    monkeypatch.setattr(Doubler, "act", staticmethod(act))
    engine = doubler()
    threads = [threading.Thread(target=engine.run, args=({"x": X},)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [False] * 8


# -- options --


def test_threads() -> None:
    assert EngineOptions().thread_count >= 1
    assert EngineOptions(threads=np.int64(3)).thread_count == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_no_threads(threads: Any) -> None:
    with pytest.raises(UsageError, match="threads is .*; expected a whole number of at least 1"):
        EngineOptions(threads=threads)


@pytest.mark.parametrize("device", [None, 0, ["cpu"]])
def test_no_device(device: Any) -> None:
    with pytest.raises(UsageError, match="device is .*; expected a name such as 'cpu'"):
        EngineOptions(device=device)


def test_unknown_device() -> None:
    with pytest.raises(UsageError, match="engine doubler runs on cpu; got device 'gpu'"):
        doubler(EngineOptions(device="gpu"))


@pytest.mark.parametrize(
    ("engine", "given", "expected"),
    [
        ("openvino", "CPU", "cpu"),
        ("openvino", "GPU", "gpu"),
        ("openvino", "GPU.1", "gpu.1"),
        ("openvino", "NPU", "npu"),
        ("onnxruntime", "CUDA:1", "cuda:1"),
        ("onnxruntime", "CUDAExecutionProvider", "cuda"),
        ("onnxruntime", "CPUExecutionProvider", "cpu"),
        ("paddle", "CPU", "cpu"),
        ("paddle", "gpu:1", "cuda:1"),
        ("paddle", "GPU", "cuda"),
        ("tensorrt", "CUDA", "cuda"),
        ("fastdeploy", "CPU", "cpu"),
    ],
)
def test_device_names_as_the_libraries_print_them(engine: str, given: str, expected: str) -> None:
    kind = registry.engine_class(engine)
    assert kind.device_name(given) == expected
    kind.check_device(expected)


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("openvino", "gpu:1"),
        ("openvino", "cuda"),
        ("openvino", "GPU.x"),
        ("onnxruntime", "gpu"),
        ("onnxruntime", "cuda:x"),
        ("paddle", "gpu:"),
        ("tensorrt", "CPU"),
        ("fastdeploy", "gpu"),
    ],
)
def test_device_names_of_others(engine: str, device: str) -> None:
    kind = registry.engine_class(engine)
    with pytest.raises(UsageError, match="runs on .*; got device"):
        kind.check_device(kind.device_name(device))


# -- what is installed --


@pytest.mark.parametrize("library", ["no_such_library", "no_such_library.part", "numpy.no_such_part", "."])
def test_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "library", library)
    assert not Doubler.installed()


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Doubler.version() == np.__version__
    monkeypatch.setattr(Doubler, "library", "pytest")
    monkeypatch.setattr(Doubler, "distribution", "pytest-under-another-name")
    assert Doubler.version() == pytest.__version__
    monkeypatch.setattr(Doubler, "library", "no_such_library")
    assert Doubler.version() == "unknown"


@pytest.mark.parametrize("precision", [None, 16, "fp8", "FP16", ""])
def test_no_precision(precision: Any) -> None:
    with pytest.raises(UsageError, match="precision is .*; choose from fp32, fp16, bf16"):
        EngineOptions(precision=precision)


def test_a_precision_is_given_by_its_name() -> None:
    assert EngineOptions(precision="bf16").precision.is_16_bit  # type: ignore[arg-type]


def test_a_precision_that_the_engine_does_not_have() -> None:
    with pytest.raises(UsageError, match="engine doubler runs fp32; got precision 'fp16'"):
        doubler(EngineOptions(precision=Precision.FP16))


def test_variants_of_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Doubler.variants_for(Precision.FP32) == ("doubled",)
    monkeypatch.setattr(Doubler, "fallback_variants", {Precision.FP32: "doubled again"})
    assert Doubler.variants_for(Precision.FP32) == ("doubled", "doubled again")


# -- memory --


def test_scratch_memory_is_not_freed_during_a_run_or_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []
    monkeypatch.setattr(Doubler, "_free_scratch_memory", lambda self: freed.append(self.component))
    engine = doubler()

    def act(x: np.ndarray) -> dict[str, np.ndarray]:
        engine.free_scratch_memory()
        return {"y": np.concatenate([x, x], axis=1)}

    monkeypatch.setattr(Doubler, "act", staticmethod(act))
    engine.run({"x": X})
    assert freed == []
    engine.free_scratch_memory()
    assert freed == ["part"]
    engine.close()
    engine.free_scratch_memory()
    assert freed == ["part"]
