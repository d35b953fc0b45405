"""The memory for intermediate results of all sessions on the CPU: one arena, which can be emptied between runs.

By default each session has an arena of its own that keeps its peak. The library shrinks an arena only at the end of a
run that has the option `memory.enable_memory_arena_shrinkage`; with that option on every run, each step allocates its
memory again. So the sessions share one arena, and `free_scratch_memory` runs a graph of one `Identity` with the option.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np

from kandinsky_runtime.engines.onnxruntime.cuda import CPU_PROVIDER

# An ONNX model of IR version 8 and opset 17: y = Identity(x), float32 of shape (1).
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808011204"
    "0a02080142040a001011"
)
# The arena grows by what is needed; by default it doubles.
_AS_REQUESTED = 1

_log = logging.getLogger(__name__)


class SharedArena:
    """The library's arena for the whole process. A process has one, made when the first graph is loaded."""

    _lock = threading.Lock()
    _made: SharedArena | None = None
    _refused = False

    def __init__(self, onnxruntime: Any) -> None:
        self._onnxruntime = onnxruntime
        kinds, places = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
        memory = onnxruntime.OrtMemoryInfo("Cpu", kinds.ORT_ARENA_ALLOCATOR, 0, places.DEFAULT)
        growth = onnxruntime.OrtArenaCfg({"arena_extend_strategy": _AS_REQUESTED})
        onnxruntime.create_and_register_allocator(memory, growth)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.share(settings)
        self._session = onnxruntime.InferenceSession(_IDENTITY, settings, providers=[CPU_PROVIDER])
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @classmethod
    def get(cls, onnxruntime: Any) -> SharedArena | None:
        """The arena; None if the library refuses it, as when another package of the process registered its own."""
        with cls._lock:
            if cls._made is None and not cls._refused:
                try:
                    cls._made = cls(onnxruntime)
                except Exception as error:  # vendors raise nearly anything; without the arena only memory is lost
                    cls._refused = True
                    _log.info("onnxruntime has no shared arena, so memory stays at its peak: %s", error)
            return cls._made

    def share(self, settings: Any) -> None:
        """Let a session use the arena. Weights are kept outside it: they would keep its regions in use."""
        settings.add_session_config_entry("session.use_env_allocators", "1")
        settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")

    def free(self) -> None:
        """Return the arena's unused regions to the system; those of runs in progress stay."""
        self._session.run(None, {"x": np.zeros(1, np.float32)}, self._shrink)
