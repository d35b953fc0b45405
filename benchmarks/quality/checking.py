"""What is wrong with a setting on any machine, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.quality.grid import Item
from benchmarks.quality.opening import pipeline_for_checks
from benchmarks.quality.runs import Plan
from kandinsky_export.comparison.runs import prepared
from kandinsky_runtime.engines.options import EngineOptions
from kandinsky_runtime.engines.registry import AUTO, engine_class
from kandinsky_runtime.errors import EngineUnavailable


def check_settings(plan: Plan, rows: Sequence[Item]) -> None:
    """Check every value of the rows' settings. What only this machine or the bundle lacks is no fault.

    Raises:
        UsageError: a value cannot be used on any machine.
    """
    case = plan.cases(plan.baseline)[0]
    with pipeline_for_checks(plan.bundle) as pipeline:
        for item in rows:
            setting = plan.setting(item)
            with setting.named_in_errors():
                _check_loading(setting.loading)
                prepared(pipeline, setting, case)


def _check_loading(loading: Mapping[str, Any]) -> None:
    EngineOptions(**{name: loading[name] for name in ("threads", "precision") if name in loading})
    name, device = loading.get("engine", AUTO), loading.get("device")
    if name == AUTO:
        return
    try:
        engine = engine_class(name)
        if device is not None:
            engine.check_device(engine.device_name(device))
    except EngineUnavailable:  # the row is left out
        return
