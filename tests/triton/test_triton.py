"""A model repository in a real Triton, through its own clients."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.served_bundles import Bundles
from tests.serving.server_process import SIZE, mask, picture, pixels, png
from tests.triton.conftest import MOST_JOBS
from tests.triton.triton_server import TritonServer  # skips this file where there is no Triton

PROTOCOLS = ("http", "grpc")
PARAMETERS: dict[str, Any] = {"seed": 7, "num_inference_steps": 4}
LONG: dict[str, Any] = {"seed": 7, "num_inference_steps": 250, "n": 10}  # minutes of work
SIZE_TEXT = f"{SIZE[0]}x{SIZE[1]}"

Infer = Callable[..., Any]


def connect(triton: TritonServer, protocol: str) -> tuple[ModuleType, Any]:
    """A client's module, and a client."""
    import tritonclient.grpc
    import tritonclient.http

    if protocol == "http":
        return tritonclient.http, tritonclient.http.InferenceServerClient(triton.http, network_timeout=300)
    return tritonclient.grpc, tritonclient.grpc.InferenceServerClient(triton.grpc)


def tensors(module: ModuleType, **given: bytes) -> list[Any]:
    made = []
    for name, value in given.items():
        made.append(module.InferInput(name, [1], "BYTES"))
        made[-1].set_data_from_numpy(np.array([value], object))
    return made


def repainting(module: ModuleType) -> list[Any]:
    return tensors(module, PROMPT=b"a hat", IMAGE=png(picture()), MASK=png(mask()))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_pipelines_pictures(triton: TritonServer, inpaint: InpaintPipeline, protocol: str) -> None:
    module, client = connect(triton, protocol)
    result = client.infer("inpaint", repainting(module), parameters=PARAMETERS | {"n": 2}, request_id="r1")
    expected = inpaint(
        "a hat", image=picture(), mask_image=mask(), num_images_per_prompt=2, num_inference_steps=4, seed=7
    )
    for content, image in zip(result.as_numpy("IMAGE"), expected.images, strict=True):
        np.testing.assert_array_equal(pixels(content), np.asarray(image))
    np.testing.assert_array_equal(result.as_numpy("SEED"), [7, 8])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_to_image(triton: TritonServer, generate: GeneratePipeline, protocol: str) -> None:
    module, client = connect(triton, protocol)
    given = tensors(module, PROMPT=b"a red cat", NEGATIVE_PROMPT=b"a dog")
    options = PARAMETERS | {"size": SIZE_TEXT, "guidance_scale": "2.5"}
    result = client.infer("plain", given, parameters=options)
    expected = generate(
        "a red cat", negative_prompt="a dog", width=SIZE[0], height=SIZE[1], num_inference_steps=4, guidance_scale=2.5,
        seed=7,
    )  # fmt: skip
    np.testing.assert_array_equal(pixels(result.as_numpy("IMAGE")[0]), np.asarray(expected.images[0]))


def test_a_crowd_gets_the_pictures_of_each_alone(triton: TritonServer, inpaint: InpaintPipeline) -> None:
    module, client = connect(triton, "grpc")
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for seed in range(MOST_JOBS):
        options = {"seed": seed, "num_inference_steps": 2 + seed % 5}
        client.async_infer(
            "inpaint", repainting(module), lambda result, error, seed=seed: answers.put((seed, result, error)),
            parameters=options,
        )  # fmt: skip
    for _ in range(MOST_JOBS):
        seed, result, error = answers.get(timeout=60)
        assert error is None
        expected = inpaint("a hat", image=picture(), mask_image=mask(), num_inference_steps=2 + seed % 5, seed=seed)
        np.testing.assert_array_equal(pixels(result.as_numpy("IMAGE")[0]), np.asarray(expected.images[0]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_short_request_joins_a_long_one_and_returns_first(triton: TritonServer, protocol: str) -> None:
    module, client = connect(triton, protocol)
    order: list[str] = []

    def ask(name: str, options: dict[str, Any]) -> None:
        connect(triton, protocol)[1].infer("inpaint", repainting(module), parameters=options)
        order.append(name)

    long = threading.Thread(target=ask, args=("long", {"num_inference_steps": 250, "seed": 1}))
    long.start()
    time.sleep(0.3)
    ask("short", {"num_inference_steps": 2, "seed": 1})
    long.join(60)
    assert order == ["short", "long"]
    assert client.is_model_ready("inpaint")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("given", "parameters", "message"),
    [
        ({"PROMPT": b"a hat"}, {}, "image is missing"),
        ({"PROMPT": b"a hat", "IMAGE": b"no picture", "MASK": b""}, {}, "mask is empty"),
        ({"PROMPT": b"\xff", "IMAGE": b""}, {}, "PROMPT is not UTF-8"),
        (None, {"num_inference_steps": 251}, "num_inference_steps is 251; this server takes at most 250"),
        (None, {"num_inference_step": 2}, "num_inference_step"),
        (None, {"stream": True}, "stream"),
        (None, {"scheduler": "heun"}, "scheduler"),
    ],
)
def test_what_cannot_be_used_is_named(
    triton: TritonServer, protocol: str, given: dict[str, bytes] | None, parameters: dict[str, Any], message: str
) -> None:
    module, client = connect(triton, protocol)
    inputs = repainting(module) if given is None else tensors(module, **given)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("inpaint", inputs, parameters=parameters)
    assert message in caught.value.message()
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_too_much_is_refused_and_cancelled_requests_make_room(triton: TritonServer) -> None:
    module, client = connect(triton, "grpc")
    ended: queue.Queue[Any] = queue.Queue()
    calls = [
        client.async_infer("inpaint", repainting(module), lambda result, error: ended.put(error), parameters=LONG)
        for _ in range(MOST_JOBS)
    ]
    refusals = {}
    for protocol in PROTOCOLS:
        other, another = connect(triton, protocol)
        end = time.monotonic() + 30  # the requests before it may still be on their way
        while protocol not in refusals and time.monotonic() < end:
            try:
                another.infer("inpaint", repainting(other), parameters=PARAMETERS)
            except InferenceServerException as error:
                refusals[protocol] = (error.status(), error.message())
    full = f"the server has {MOST_JOBS} requests, and no room for more; try again"
    assert refusals["grpc"] == ("StatusCode.UNAVAILABLE", full)
    assert refusals["http"] == ("503", full)
    for call in calls:
        call.cancel()
    for _ in calls:
        assert "cancel" in str(ended.get(timeout=30)).lower()
    end = time.monotonic() + 30
    while True:
        try:
            client.infer("inpaint", repainting(module), parameters=PARAMETERS)
            break
        except InferenceServerException as error:
            assert error.message() == full
            assert time.monotonic() < end, "cancelled requests still take the places"
        time.sleep(0.1)


def test_a_clients_time_out_is_the_deadline(triton: TritonServer) -> None:
    module, client = connect(triton, "http")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("inpaint", repainting(module), parameters=LONG, timeout=1_000_000)  # microseconds
    assert "its client gives up after 1 s" in caught.value.message()
    assert caught.value.status() == "503"


def test_a_thousand_malformed_inputs_leave_the_model_alive(triton: TritonServer) -> None:
    module, client = connect(triton, "grpc")
    rng = random.Random(1)
    stubs = sorted(triton.stubs)
    good = {"PROMPT": b"a hat", "IMAGE": png(picture()), "MASK": png(mask())}
    refused = 0
    for _ in range(1000):
        given = dict(good)
        name = rng.choice(list(given))
        content = bytearray(given[name])
        match rng.randrange(5):
            case 0:
                del given[name]
            case 1:
                given[name] = bytes(content[: rng.randrange(len(content))])
            case 2:
                given[name] = rng.randbytes(rng.randrange(200))
            case 3:
                for _ in range(rng.randrange(1, 20)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
                given[name] = bytes(content)
            case 4:
                given[rng.choice(["IMAGE", "MASK"])] = good[name]
        parameters = {
            "num_inference_steps": 1,
            rng.choice(["seed", "guidance_scale", "size", "n", "scheduler", "expand", "x"]): rng.choice(
                [-1, 0, 2**40, True, "", "nan", "64x64", "\0", "1e999", "[" * 500]
            ),
        }
        try:
            client.infer("inpaint", tensors(module, **given), parameters=parameters)
        except InferenceServerException as error:
            refused += 1
            assert error.status() == "StatusCode.INVALID_ARGUMENT", error
    assert refused > 500
    assert sorted(triton.stubs) == stubs
    assert client.infer("inpaint", repainting(module), parameters=PARAMETERS).as_numpy("IMAGE").shape == (1,)


def test_running_requests_end_before_the_server(bundles: Bundles, tmp_path: Path) -> None:
    from kandinsky_runtime.cli import main

    assert main(["triton", str(bundles.inpaint), "--out", str(tmp_path / "models"), "--size", SIZE_TEXT]) == 0
    with TritonServer(tmp_path / "models", tmp_path / "server") as triton:
        triton.wait_ready()
        module, client = connect(triton, "grpc")
        ended: queue.Queue[Any] = queue.Queue()
        for seed in range(4):
            client.async_infer(
                "inpaint", repainting(module), lambda result, error: ended.put(error or result),
                parameters={"seed": seed, "num_inference_steps": 60},
            )  # fmt: skip
        time.sleep(0.5)
        assert triton.stop() == 0, triton.log
        assert all(not isinstance(ended.get(timeout=10), Exception) for _ in range(4))


def test_a_wrong_parameter_in_the_configuration_is_named(bundles: Bundles, tmp_path: Path) -> None:
    from kandinsky_runtime.cli import main

    assert main(["triton", str(bundles.inpaint), "--out", str(tmp_path / "models")]) == 0
    config = tmp_path / "models" / "inpaint" / "config.pbtxt"
    config.write_text(config.read_text().replace('key: "engine"', 'key: "engin"'))
    with TritonServer(tmp_path / "models", tmp_path / "server") as triton:
        assert triton.process.wait(60) != 0  # Triton ends if a model cannot be loaded
        assert "config.pbtxt: there is no parameter engin; the parameters are bundle" in triton.log
