"""Keep the timestep's sinusoidal embedding in float32 if OpenVINO computes the rest in fewer bits.

The embedding takes sines and cosines of the timestep times a frequency. In bf16, 951 becomes 952, which changes the
phase of the fast waves. On random weights, this alone caused 9/10 of the UNet's error in bf16. The waves themselves are
in [-1, 1], and lose no more than any other value.
"""

from __future__ import annotations

from typing import Any

WAVES = ("Sin", "Cos")


def wave_name(number: int) -> str:
    """The name of the input for a wave."""
    return f"wave_{number}"


def split_waves(model: Any) -> tuple[Any, Any] | None:
    """Cut an `openvino.Model` at its sines and cosines.

    Args:
        model: a graph, which is taken apart.

    Returns:
        The graph from its inputs to the waves, and the rest, which has a float32 input named by `wave_name` for each
        wave; None if there are no waves.
    """
    import openvino
    from openvino import opset8

    waves = [node.output(0) for node in model.get_ordered_ops() if node.get_type_name() in WAVES]
    if not waves:
        return None
    fed = []
    for number, wave in enumerate(waves):
        parameter = opset8.parameter(wave.get_partial_shape(), openvino.Type.f32, name=wave_name(number))
        parameter.output(0).set_names({wave_name(number)})
        for reader in list(wave.get_target_inputs()):
            reader.replace_source_output(parameter.output(0))
        fed.append(parameter)
    before = {node.get_friendly_name() for wave in waves for node in _ancestors(wave.get_node())}
    inputs = model.get_parameters()
    early = [node for node in inputs if node.get_friendly_name() in before]
    late = [node for node in inputs if _is_read(node, before)]
    return (
        openvino.Model([opset8.result(wave) for wave in waves], early, "waves"),
        openvino.Model(model.get_results(), [*late, *fed], "rest"),
    )


def _ancestors(node: Any) -> list[Any]:
    found, waiting = [], [node]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting += [source.get_source_output().get_node() for source in current.inputs()]
    return found


def _is_read(parameter: Any, early: set[str]) -> bool:
    """Whether a node after the waves reads an input."""
    readers = parameter.output(0).get_target_inputs()
    return any(reader.get_node().get_friendly_name() not in early for reader in readers)
