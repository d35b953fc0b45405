"""The options with which commands and servers open a bundle: those of `InpaintPipeline.load`, declared once.

The module loads nothing but the standard library, so that `--help` stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass

from kandinsky_runtime.checks import flag, memory_size, text
from kandinsky_runtime.decoder.declarations import check_values, declarations, option
from kandinsky_runtime.decoder.option_values import whole

# Repeated here, so that --help does not load the modules that define them; a test compares them.
ENGINES = "tensorrt-rtx, tensorrt, openvino, onnxruntime, paddle, fastdeploy"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options. `load` checks whether there are such an engine, precision and device.

    Raises:
        UsageError: a value of another kind.
    """

    engine: str = option(
        "auto",
        f"{ENGINES}, or auto: the first that can run the bundle here",
        check=text,
        spelling="--engine",
        metavar="NAME",
    )
    precision: str | None = option(
        None, "fp32, fp16 or bf16 (default: the engine's choice)", check=text, spelling="--precision", metavar="P"
    )
    device: str | None = option(
        None, "cpu, cuda, cuda:1, gpu, … (default: the engine's first)", check=text, spelling="--device", metavar="NAME"
    )
    threads: int | None = option(
        None,
        "threads within one operation (default: all cores, or those of the container)",
        check=whole(1),
        spelling="--threads",
        metavar="N",
        parse=int,
    )
    low_memory: bool = option(
        False, "keep one graph in memory at a time: slower, with a lower peak", check=flag, spelling="--low-memory"
    )
    shape_memory: int | str | None = option(
        None,
        "memory for all compiled shapes together, such as 2G or 512M; each graph keeps its last shape; openvino only"
        " (default: half of the free memory for a new shape)",
        check=memory_size,
        spelling="--shape-memory",
        metavar="SIZE",
    )
    trust_bundle: bool = option(
        False,
        "do not compare the content of the bundle's files with the manifest, only their sizes",
        check=flag,
        spelling="--trust-bundle",
    )
    tiles: bool = option(
        False,
        "encode and decode in tiles of 512 px: less memory for large pictures, slightly different results",
        check=flag,
        spelling="--tiles",
    )

    def __post_init__(self) -> None:
        check_values(self)


LOAD_OPTIONS = tuple(declarations(LoadOptions))
