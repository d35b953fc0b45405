"""The description of the interface, OpenAPI 3.1, made of the tables that read the requests."""

from __future__ import annotations

from functools import partial
from typing import Any

from kandinsky_runtime.decoder.declarations import Check, declarations
from kandinsky_runtime.decoder.options import DecoderOptions, GenerateOptions, InpaintOptions
from kandinsky_runtime.distribution import installed
from kandinsky_runtime.limits import MAX_SEED
from kandinsky_runtime.serving.fields import (
    FORMATS,
    LONGEST_PROMPT,
    MOST_PREVIEWS,
    MOST_RESULTS,
    QUALITIES,
    REFUSED,
    option_fields,
)
from kandinsky_runtime.serving.service import Service

_TYPES: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
}
_FILE = {"type": "string", "format": "binary", "description": "the content of a picture's file"}
_URL_TEXT = {"type": "string", "description": "a data URL such as data:image/png;base64,…"}
_DATA_URL = {
    "anyOf": [
        _URL_TEXT,
        {
            "type": "object",
            "required": ["image_url"],
            "properties": {"image_url": _URL_TEXT},
            "additionalProperties": False,
        },
    ],
    "description": "a data URL, or an object with one",
}
_IMAGES_LIST = {
    "type": "array",
    "items": _DATA_URL,
    "minItems": 1,
    "maxItems": 1,
    "description": "the picture as a list of one, instead of image",
}


def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document of a server."""
    models = list(service.models.by_name)
    edits, generations = _fields(InpaintOptions, models), _fields(GenerateOptions, models)
    edits["strength"] = generations.pop("strength")  # it goes with a picture to change
    form = {
        "type": "object",
        "required": ["prompt", "image"],
        "properties": edits | {"image": _FILE, "mask": _FILE},
        "additionalProperties": False,
    }
    text = {
        "type": "object",
        "required": ["prompt"],
        "oneOf": [{"required": ["image"]}, {"required": ["images"]}],
        "properties": edits | {"image": _DATA_URL, "images": _IMAGES_LIST, "mask": _DATA_URL},
        "additionalProperties": False,
    }
    made = {"type": "object", "required": ["prompt"], "properties": generations, "additionalProperties": False}
    edit, generation = {"multipart/form-data": form, "application/json": text}, {"application/json": made}
    edit_body, generation_body = _body(edit), _body(generation)
    job_edit_body, job_generation_body = _body(_of_jobs(edit)), _body(_of_jobs(generation))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "k22 serve",
            "version": installed()[1],
            "description": "Kandinsky 2.2: OpenAI's image API with the options of a run as further fields, jobs, and"
            " the Open Inference Protocol.",
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR, "Images": _IMAGES, "Job": _JOB},
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/images/edits": {"post": _operation("Repaint a picture", "edit", "Images", body=edit_body)},
            "/v1/images/generations": {
                "post": _operation("Make a picture", "generate", "Images", body=generation_body)
            },
            "/v1/jobs/edits": {
                "post": _operation("Repaint a picture in a job", "jobEdit", "Job", "202", job_edit_body)
            },
            "/v1/jobs/generations": {
                "post": _operation("Make a picture in a job", "jobGenerate", "Job", "202", job_generation_body)
            },
            "/v1/jobs": {"get": _operation("The caller's jobs", "jobs")},
            "/v1/jobs/{job}": {
                "get": _operation("A job's state", "job", "Job", parameters=[_PATH_JOB, _QUERY_PICTURES]),
                "delete": _operation(
                    "Cancel or forget a job", "removeJob", "Job", parameters=[_PATH_JOB], more=("204",)
                ),
            },
            "/v1/jobs/{job}/events": {"get": _operation("A job's events", "watchJob", parameters=[_PATH_JOB])},
            "/v1/jobs/{job}/images/{number}": {
                "get": _operation("A result's file", "picture", parameters=[_PATH_JOB, _PATH_NUMBER])
            },
            "/v1/jobs/{job}/previews/{number}": {
                "get": _operation("The file of a picture on the way", "preview", parameters=[_PATH_JOB, _PATH_NUMBER])
            },
            "/v1/models": {"get": _operation("The models", "models")},
            "/v1/models/{model}": {"get": _operation("A model", "model", parameters=[_PATH_MODEL])},
            "/v2": {"get": _operation("The server, by the Open Inference Protocol", "v2Server")},
            "/v2/models/{model}": {"get": _operation("A model's tensors", "v2Model", parameters=[_PATH_MODEL])},
            "/v2/models/{model}/ready": {
                "get": _operation("Whether a model is ready", "v2Ready", parameters=[_PATH_MODEL])
            },
            "/v2/models/{model}/infer": {
                "post": _operation(
                    "Make or repaint pictures, by the Open Inference Protocol", "v2Infer", parameters=[_PATH_MODEL],
                    body=_body({"application/json": _INFER}),
                )
            },
            "/v2/models/{model}/versions/{version}": {
                "get": _operation("A version's tensors", "v2Version", parameters=[_PATH_MODEL, _PATH_VERSION])
            },
            "/v2/models/{model}/versions/{version}/ready": {
                "get": _operation(
                    "Whether a version is ready", "v2VersionReady", parameters=[_PATH_MODEL, _PATH_VERSION]
                )
            },
            "/v2/models/{model}/versions/{version}/infer": {
                "post": _operation(
                    "Make or repaint pictures with a version", "v2VersionInfer",
                    parameters=[_PATH_MODEL, _PATH_VERSION], body=_body({"application/json": _INFER}),
                )
            },
            "/livez": {"get": _operation("Whether the server works", "live")},
            "/readyz": {"get": _operation("Whether requests are taken", "ready")},
            "/metrics": {"get": _operation("Figures for Prometheus", "metrics")},
        },
    }  # fmt: skip


def _fields(options: type[DecoderOptions], models: list[str]) -> dict[str, Any]:
    """The fields of a task: OpenAI's, then the options of a run."""
    found: dict[str, Any] = {
        "prompt": {"type": "string", "maxLength": LONGEST_PROMPT, "description": "what to show"},
        "model": {"type": "string", "enum": models, "description": "the model's name (default: the first that can)"},
        "n": {
            "type": "integer",
            "minimum": 1,
            "maximum": MOST_RESULTS,
            "default": 1,
            "description": "number of results",
        },
        "size": {"type": "string", "description": "WIDTHxHEIGHT in pixels, or auto"},
        "quality": {
            "enum": ["auto", "standard", *QUALITIES],
            "description": "number of steps: " + ", ".join(f"{name} {steps}" for name, steps in QUALITIES.items()),
        },
        "output_format": {"enum": list(FORMATS), "default": "png"},
        "output_compression": {
            "type": "integer",
            "minimum": 0,
            "maximum": 100,
            "description": "quality of jpeg and webp",
        },
        "stream": {"type": "boolean", "default": False, "description": "send events"},
        "partial_images": {
            "type": "integer",
            "minimum": 0,
            "maximum": MOST_PREVIEWS,
            "description": "pictures on the way",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "seconds after which the request is given up",
        },
        "user": {"type": "string", "maxLength": 512, "description": "a name for the log"},
        "safety_identifier": {"type": "string", "maxLength": 512, "description": "the same as user"},
    }
    for name, declared in option_fields(options).items():
        item = declarations(options)[name][0]
        found[name] = {
            **_type_of(str(item.type), declared.choices),
            **_limits_of(declared.check),
            "description": declared.text,
        }
    limits = {"minimum": 0, "maximum": MAX_SEED}
    found["seed"] |= {**limits, "items": {"type": "integer", **limits}, "maxItems": MOST_RESULTS}
    for name, (allowed, reason) in REFUSED.items():
        if allowed:
            found[name] = {"enum": list(allowed), "description": reason}
    return found


def _type_of(annotation: str, choices: tuple[str, ...] | None) -> dict[str, Any]:
    if choices is not None:
        return {"enum": list(choices)}
    if annotation.startswith("int | Sequence[int]"):
        return {"type": ["integer", "array"], "items": {"type": "integer"}}
    if "tuple[float" in annotation or annotation.startswith("Sequence[int]"):
        return {"type": ["array", "string"], "items": {"type": "number"}}
    return dict(next((kind for name, kind in _TYPES.items() if annotation.startswith(name)), {"type": "string"}))


def _limits_of(check: Check | None) -> dict[str, Any]:
    """The limits of a number, from the arguments of its check (`option_values.whole`, `option_values.real`)."""
    given = check.keywords if isinstance(check, partial) else {}
    least = "exclusiveMinimum" if given.get("exclusive") else "minimum"
    found = {least: given.get("least"), "maximum": given.get("most")}
    return {name: limit for name, limit in found.items() if limit is not None}


def _of_jobs(schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The bodies of requests for jobs, which have events instead of streams."""
    return {
        kind: schema | {"properties": {name: item for name, item in schema["properties"].items() if name != "stream"}}
        for kind, schema in schemas.items()
    }


def _body(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def _operation(
    summary: str, name: str, schema: str = "", status: str = "200", body: dict[str, Any] | None = None, *,
    parameters: list[dict[str, Any]] | None = None, more: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    good: dict[str, Any] = {"description": "done"}
    if schema:
        good["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    content: dict[str, Any] = {"application/json": {"schema": {}}}
    refused = {"description": "refused", "content": content}
    failed = {"description": "the work failed", "content": content}
    late = {"description": "not done within the time limit, or cancelled", "content": content}
    found: dict[str, Any] = {
        "summary": summary,
        "operationId": name,
        "responses": {
            status: good,
            **{other: {"description": "done"} for other in more},
            "4XX": refused,
            **({"500": failed} if body else {}),
            "503": refused,
            **({"504": late} if body else {}),
        },
    }
    if parameters:
        found["parameters"] = parameters
    if body:
        found["requestBody"] = body
    return found


def _parameter(name: str, where: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": kind}


_PATH_JOB = _parameter("job", "path", {"type": "string"})
_PATH_NUMBER = _parameter("number", "path", {"type": "integer", "minimum": 0})
_PATH_MODEL = _parameter("model", "path", {"type": "string"})
_PATH_VERSION = _parameter("version", "path", {"const": "1"})
_QUERY_PICTURES = _parameter("pictures", "query", {"type": "boolean"})

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_IMAGES = {
    "type": "object",
    "required": ["created", "data", "usage", "k22"],
    "properties": {
        "created": {"type": "integer"},
        "data": {"type": "array", "items": {"type": "object", "properties": {"b64_json": {"type": "string"}}}},
        "background": {"type": "string"},
        "output_format": {"type": "string"},
        "quality": {"type": "string"},
        "size": {"type": "string"},
        "usage": {"type": "object"},
        "k22": {"type": "object", "description": "model, seeds, notes, what was understood of the mask, seconds"},
    },
}
_JOB = {
    "type": "object",
    "required": ["id", "object", "model", "status", "queue_position", "steps", "steps_done"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "job"},
        "model": {"type": "string"},
        "status": {"enum": ["queued", "running", "completed", "failed", "cancelled"]},
        "created_at": {"type": "integer"},
        "queue_position": {"type": "integer"},
        "steps": {"type": "integer"},
        "steps_done": {"type": "integer"},
        "seconds_left": {"type": "number"},
        "previews": {"type": "integer"},
        "images": {"type": "integer"},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": {"type": "object"}},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
}
