"""For those who run the server: health, metrics, and the list of models."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from kandinsky_runtime.limits import MIN_SIZE
from kandinsky_runtime.sampling.schedulers import SCHEDULERS
from kandinsky_runtime.serving.answers import Refusal
from kandinsky_runtime.serving.fields import MOST_RESULTS
from kandinsky_runtime.serving.models import Model
from kandinsky_runtime.serving.service import Service


async def live(request: Request) -> Response:
    """200 while the server does its work; 503 if it should be started again."""
    stuck = request.app.state.service.stuck
    return PlainTextResponse("alive\n" if stuck is None else f"stuck: {stuck}\n", 200 if stuck is None else 503)


async def ready(request: Request) -> Response:
    """200 if requests are taken; 503 while the server warms up, and after a signal to stop."""
    service: Service = request.app.state.service
    if service.ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("stopping\n" if service.admission.draining else "warming up\n", 503)


async def metrics(request: Request) -> Response:
    """All figures, in Prometheus' text format."""
    return Response(request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def models(request: Request) -> Response:
    """The models, as OpenAI's clients read them."""
    service: Service = request.app.state.service
    return JSONResponse(
        {"object": "list", "data": [_model(service, model) for model in service.models.by_name.values()]}
    )


async def model(request: Request) -> Response:
    """One model."""
    service: Service = request.app.state.service
    found = service.models.by_name.get(request.path_params["model"])
    if found is None:
        raise Refusal(404, f"there is no model {request.path_params['model'][:80]!r}", code="model_not_found")
    return JSONResponse(_model(service, found))


def _model(service: Service, model: Model) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "kandinsky22-deploy",
        "task": model.task,
        "engine": model.pipeline.selection.engine.name,
        "precision": model.pipeline.selection.precision,
        "schedulers": list(SCHEDULERS),
        "limits": {
            "max_pixels": service.settings.max_pixels,
            "max_steps": service.settings.max_steps,
            "max_results": MOST_RESULTS,
            "min_size": MIN_SIZE,
        },
    }
