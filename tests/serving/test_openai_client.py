"""OpenAI's own client, unchanged, against a real server."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.serving.server_process import SIZE, Server, mask, picture, pixels, png

STEPS = {"num_inference_steps": 4, "seed": 7}


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def edit(client: openai.OpenAI, **changes: Any) -> Any:
    sound: dict[str, Any] = {"image": png(picture()), "mask": png(mask()), "prompt": "a hat", "extra_body": STEPS}
    return client.images.edit(**sound | changes)


def content(item: Any) -> bytes:
    return base64.b64decode(item.b64_json)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["inpaint", "plain"]
    assert client.models.retrieve("plain").owned_by == "kandinsky22-deploy"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-image-1'"):
        client.models.retrieve("gpt-image-1")


def test_an_edit_is_the_pipelines_picture(client: openai.OpenAI, inpaint: InpaintPipeline) -> None:
    result = edit(client, n=2)
    expected = inpaint("a hat", image=picture(), mask_image=mask(), num_images_per_prompt=2, **STEPS)
    for item, image in zip(result.data, expected.images, strict=True):
        np.testing.assert_array_equal(pixels(content(item)), np.asarray(image))
    assert result.size == f"{SIZE[0]}x{SIZE[1]}"
    assert result.output_format == "png"
    assert result.usage.total_tokens == 0
    figures = result.model_extra["k22"]
    assert figures["seeds"] == [7, 8]
    assert figures["masks"][0] == {"rule": "white", "inverted": False, "repainted": pytest.approx(1 / 16)}
    assert figures["seconds"]["denoise"] > 0


def test_a_picture_is_made(client: openai.OpenAI, generate: GeneratePipeline) -> None:
    result = client.images.generate(model="plain", prompt="a cat", size="96x64", extra_body=STEPS)
    expected = generate("a cat", width=96, height=64, **STEPS).images[0]
    np.testing.assert_array_equal(pixels(content(result.data[0])), np.asarray(expected))


def test_a_plain_bundle_changes_a_picture(client: openai.OpenAI, generate: GeneratePipeline) -> None:
    result = client.images.edit(
        model="plain", image=png(picture()), prompt="a cat", extra_body=STEPS | {"strength": 0.5}
    )
    expected = generate("a cat", image=picture(), strength=0.5, **STEPS).images[0]
    np.testing.assert_array_equal(pixels(content(result.data[0])), np.asarray(expected))


def test_every_way_to_send_a_mask(client: openai.OpenAI) -> None:
    whole = picture()
    hole = whole.copy()
    hole.putalpha(Image.fromarray(255 - np.asarray(mask())))
    by_white = edit(client)
    by_alpha = edit(client, mask=png(hole))
    without = edit(client, image=[png(hole)], mask=openai.omit)
    black = edit(client, mask=png(Image.fromarray(255 - np.asarray(mask()))), extra_body=STEPS | {"mask_mode": "black"})
    pictures = [pixels(content(result.data[0]))[..., :3] for result in (by_white, by_alpha, without, black)]
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0], other)
    rules = [result.model_extra["k22"]["masks"][0]["rule"] for result in (by_white, by_alpha, without, black)]
    assert rules == ["white", "alpha", "alpha", "black"]
    kept = np.asarray(mask()) == 0
    np.testing.assert_array_equal(pictures[0][kept], np.asarray(whole)[kept])


def test_json_with_data_urls(server: Server) -> None:
    def url(image: Image.Image) -> str:
        return "data:image/png;base64," + base64.b64encode(png(image)).decode()

    body = {"prompt": "a hat", "images": [{"image_url": url(picture())}], "mask": {"image_url": url(mask())}, **STEPS}
    first = httpx.post(f"{server.url}/v1/images/edits", json=body, timeout=60).json()
    second = httpx.post(
        f"{server.url}/v1/images/edits",
        data={"prompt": "a hat", "num_inference_steps": "4", "seed": "7"},
        files={"image": png(picture()), "mask": png(mask())},
        timeout=60,
    ).json()
    assert first["data"] == second["data"]


@pytest.mark.parametrize(("form", "name"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_formats(client: openai.OpenAI, form: Any, name: str) -> None:
    more = {} if form == "png" else {"output_compression": 60}
    result = edit(client, output_format=form, **more)
    with Image.open(io.BytesIO(content(result.data[0]))) as image:
        assert (image.format, image.size) == (name, SIZE)
    assert result.output_format == form


def test_a_stream_shows_pictures_on_the_way(client: openai.OpenAI) -> None:
    events = list(edit(client, stream=True, partial_images=2))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    result = edit(client)
    assert content(events[-1]) == content(result.data[0]), "previews change nothing"
    kept = np.asarray(mask()) == 0
    for event in events:
        np.testing.assert_array_equal(pixels(content(event))[kept], np.asarray(picture())[kept])
    assert not np.array_equal(pixels(content(events[0])), pixels(content(events[1])))
    made = list(client.images.generate(model="plain", prompt="a", size="64x64", stream=True, extra_body=STEPS))
    assert [event.type for event in made] == ["image_generation.completed"]


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"extra_body": {"seed": "x"}}, "seed", "seed is 'x'; expected a whole number"),
        ({"extra_body": {"steps": 4}}, "steps", "there is no field 'steps'"),
        ({"extra_body": {"strength": 0.5}}, "strength", "strength is not for model inpaint"),
        ({"extra_body": {"num_inference_steps": 100_000}}, "num_inference_steps", "at most 250"),
        ({"extra_body": {"scheduler": "nonsense"}}, "scheduler", "nonsense"),
        ({"model": "gpt-image-1"}, "model", "there is no model 'gpt-image-1'; this server has inpaint, plain"),
        ({"size": "32x64"}, "size", "each at least 64"),
        ({"size": "big"}, "size", "expected WIDTHxHEIGHT"),
        ({"n": 11}, "n", "from 1 to 10"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"background": "transparent"}, "background", "opaque"),
        ({"input_fidelity": "high"}, "input_fidelity", "leave it out"),
        ({"quality": "high", "extra_body": STEPS}, "quality", "one or the other"),
        ({"output_compression": 50}, "output_compression", "jpeg and webp"),
        ({"partial_images": 2}, "partial_images", "needs stream"),
        ({"image": b"no picture"}, "image", "is not a picture"),
        ({"image": [png(picture()), png(picture(1))]}, "image", "several times"),
        ({"mask": png(mask((64, 64)))}, "mask", "expected the same size"),
        ({"mask": png(Image.new("L", SIZE))}, "mask", "nothing to repaint"),
        ({"mask": openai.omit}, "mask", "mask is missing"),
        ({"prompt": "x" * 32_001}, "prompt", "32,000"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_named(
    client: openai.OpenAI, changes: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, **changes)
    assert message in str(caught.value)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-request-id"]


def test_a_client_that_goes_cancels_its_work(server: Server) -> None:
    def cancelled() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("k22_requests_cancelled_total{")]
        return sum(float(line.split()[-1]) for line in lines if 'reason="disconnect"' in line)

    before = cancelled()
    timeout = httpx.Timeout(5, read=0.5)
    impatient = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=timeout)
    patience = {"X-Stainless-Read-Timeout": "600"}
    with pytest.raises(openai.APITimeoutError):
        edit(impatient, n=10, extra_headers=patience, extra_body={"num_inference_steps": 250, "seed": 1})
    end = time.monotonic() + 10
    while cancelled() == before:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "k22_requests_running 0.0" in httpx.get(f"{server.url}/metrics").text


def test_what_cannot_be_done_in_time_is_refused_at_once(client: openai.OpenAI) -> None:
    edit(client)
    hurried = client.with_options(timeout=httpx.Timeout(60, read=0.1))
    with pytest.raises(openai.InternalServerError, match="gives up after 0.1 s") as caught:
        edit(hurried, extra_body={"num_inference_steps": 250, "seed": 1})
    assert caught.value.status_code == 503
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_the_time_limit_of_a_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        edit(client, extra_body={"timeout": 0.001, **STEPS})
    assert caught.value.status_code in (503, 504)
