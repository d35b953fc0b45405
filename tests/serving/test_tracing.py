"""Traces: a span for a request, children for its phases, a parent from outside, and no prompt in any of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.tracing import ENDPOINT, set_up_tracing
from tests.serving.conftest import Bundles
from tests.serving.server_process import Server, mask, picture, png

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """The address of a collector of spans, and the spans that it got."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = ExportTraceServiceRequest()
            message.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(
                span for group in message.resource_spans for scope in group.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


def test_spans_of_a_request(bundles: Bundles, tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    address, spans = collector
    with Server(bundles.inpaint, folder=tmp_path, env={ENDPOINT: address}) as server:
        answer = httpx.post(
            f"{server.url}/v1/images/edits",
            data={"prompt": "a secret hat", "num_inference_steps": "4"},
            files={"image": png(picture()), "mask": png(mask())},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            timeout=60,
        )
        assert answer.status_code == 200
        assert server.stop() == 0
    (request,) = [span for span in spans if span.name == "POST /v1/images/edits"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    children = {span.name: span for span in spans if span.parent_span_id == request.span_id}
    assert {"queue", "encode_text", "prior", "encode", "denoise", "decode"} <= set(children)
    for child in children.values():
        assert request.start_time_unix_nano <= child.start_time_unix_nano + 10_000_000
        assert child.start_time_unix_nano <= child.end_time_unix_nano <= request.end_time_unix_nano
    units = {attribute.key: attribute.value.int_value for attribute in children["denoise"].attributes}
    assert units == {"k22.units": 4}
    assert "secret" not in json.dumps([str(span) for span in spans])


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_up_tracing({}) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(UsageError, match=r"pip install 'kandinsky22-deploy\[otel\]'"):
        set_up_tracing({ENDPOINT: "http://localhost:1"})
