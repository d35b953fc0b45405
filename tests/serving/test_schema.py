"""The OpenAPI document: valid, complete, and true of the server under generated requests."""

from __future__ import annotations

import httpx
import jsonschema
import pytest
import schemathesis
from schemathesis.checks import CHECKS  # noqa: F401 (registers them)

from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.serving.app import routes
from kandinsky_runtime.serving.fields import REFUSED
from tests.serving.server_process import Server

DELIBERATE = {"warming_up", "deadline", "queue_full", "queue_too_long", "draining"}


def test_every_option_is_a_field(server: Server) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    fields = content["application/json"]["schema"]["properties"]
    made = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "strength" in fields  # a plain bundle changes a picture
    assert "strength" not in made["properties"]  # there is no picture to change
    spelled = {name for name, (_, declared) in declarations(InpaintOptions).items() if declared.spelling}
    assert spelled - {"max_pixels", "num_images_per_prompt"} <= set(fields)
    assert {"scheduler", "negative_prompt", "prompt", "n", "size", "stream"} <= set(fields)
    assert all(field.get("description") or "enum" in field or "default" in field for field in fields.values())
    assert not set(fields) & {name for name, (allowed, _) in REFUSED.items() if not allowed}


def test_the_document_has_all_forms_of_a_request_and_its_answers(server: Server) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    edits, jobs = paths["/v1/images/edits"]["post"], paths["/v1/jobs/edits"]["post"]
    schema = edits["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["properties"]
    picture = {"image_url": "data:image/png;base64,AAAA"}
    for body in (
        {"image": picture},
        {"images": [picture], "mask": picture},
        {"image": "data:", "seed": [1, 2], "n": 2},
    ):
        jsonschema.validate({"prompt": "a", **body}, schema)
    for body in ({}, {"image": "data:", "images": ["data:"]}, {"image": {"file_id": "x"}}, {"image": "", "seed": [-1]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"prompt": "a", **body}, schema)
    assert {"500", "503", "504", "4XX"} <= set(edits["responses"])
    for content in jobs["requestBody"]["content"].values():
        assert set(content["schema"]["properties"]) <= set(fields) - {"stream"}
    for route in routes():
        path = route.path.replace(":int", "")
        assert path in (*paths, "/", "/openapi.json", "/health", "/v2/health/live", "/v2/health/ready"), path


@pytest.mark.filterwarnings("ignore")
def test_generated_requests_never_break_the_server(server: Server) -> None:
    """No answer of 5xx but a deliberate 503, whatever is sent; see benchmarks for 10,000 of them."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    sent = 0
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for operation in schema.get_all_operations():
            for case in generated(operation.ok(), 5):
                if "events" in case.path:
                    continue
                answer = case.call(timeout=60)
                sent += 1
                if answer.status_code >= 500:
                    assert answer.status_code == 503, (case.as_curl_command(), answer.text)
                    assert answer.json()["error"]["code"] in DELIBERATE, answer.text
            assert http.get("/livez").status_code == 200
    assert sent > 80


def generated(operation: schemathesis.schemas.APIOperation, count: int) -> list[schemathesis.Case]:
    """Requests that keep to the document, and requests that break it."""
    from hypothesis import HealthCheck, Phase, given, settings

    cases: list[schemathesis.Case] = []
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=count, database=None, deadline=None, phases=[Phase.generate], derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def collect(case: schemathesis.Case) -> None:
            cases.append(case)

        try:
            collect()
        except Exception as error:  # an operation without parameters has nothing to break
            if "negative" not in str(error).lower() and "Unsatisfiable" not in type(error).__name__:
                raise
    return cases
