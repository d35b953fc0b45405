"""200 requests at once, of mixed kinds, some cancelled in flight: everybody's picture is their own, bit for bit."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, pixels, png

COUNT, CANCELLED_EVERY = 200, 7
SIZES = ((96, 64), (64, 96), (128, 128), (72, 64))
SCHEDULERS = ("ddpm", "dpm++", "unipc", "euler-a", "ddim")


def asked(number: int) -> tuple[str, dict[str, Any], tuple[int, int]]:
    """The endpoint, fields and size of a request; those of one kind come again, so that each kind is computed once."""
    rng = np.random.default_rng(number % 40)
    size = SIZES[rng.integers(len(SIZES))]
    fields = {
        "prompt": ("a hat", "a red cat", "")[rng.integers(3)],
        "seed": int(rng.integers(1000)),
        "num_inference_steps": int(rng.integers(2, 8)),
        "scheduler": SCHEDULERS[rng.integers(len(SCHEDULERS))],
        "guidance_scale": float(rng.choice([1.0, 4.0])),
        "n": int(rng.integers(1, 3)),
    }
    return ("generations" if rng.uniform() < 0.3 else "edits"), fields, size


async def send(http: httpx.AsyncClient, number: int) -> list[np.ndarray] | None:
    """The pictures of a request; None for one that was cancelled."""
    endpoint, fields, size = asked(number)
    url = f"/v1/images/{endpoint}"
    if endpoint == "edits":
        files = {"image": png(picture(number % 40, size)), "mask": png(mask(size))}
        request = http.post(url, data={name: str(value) for name, value in fields.items()}, files=files)
    else:
        request = http.post(url, json=fields | {"model": "plain", "size": f"{size[0]}x{size[1]}"})
    if number % CANCELLED_EVERY == 0:
        try:
            await asyncio.wait_for(request, 0.05 + 0.01 * (number % 100))
        except asyncio.TimeoutError:
            return None
    answer = await request if number % CANCELLED_EVERY else None
    if answer is None:
        return None
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


async def send_all(url: str) -> list[list[np.ndarray] | None]:
    limits = httpx.Limits(max_connections=COUNT)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        return list(await asyncio.gather(*(send(http, number) for number in range(COUNT))))


# Sockets of requests that were cancelled are closed by the collector of garbage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_crowd(bundles: Bundles, tmp_path: Path, inpaint: InpaintPipeline, generate: GeneratePipeline) -> None:
    flags = ("--max-jobs", str(COUNT))
    with Server(bundles.inpaint, bundles.plain, folder=tmp_path, flags=flags) as server:
        found = asyncio.run(send_all(server.url))
        figures = httpx.get(f"{server.url}/metrics").text
    assert "k22_places_taken 0.0" in figures
    assert "k22_requests_running 0.0" in figures
    expected: dict[int, list[np.ndarray]] = {}
    compared = 0
    for number, images in enumerate(found):
        if images is None:
            continue
        kind = number % 40
        if kind not in expected:
            endpoint, fields, size = asked(number)
            options = {name: value for name, value in fields.items() if name != "n"}
            options["num_images_per_prompt"] = fields["n"]
            if endpoint == "edits":
                output: Any = inpaint(image=picture(kind, size), mask_image=mask(size), **options)
            else:
                output = generate(width=size[0], height=size[1], **options)
            expected[kind] = [np.asarray(image) for image in output.images]
        for image, right in zip(images, expected[kind], strict=True):
            np.testing.assert_array_equal(image, right)
            compared += 1
    assert compared > COUNT
