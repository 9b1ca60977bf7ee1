"""The OpenAPI document of the service. The page at /docs shows it."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from slt_jax.serve.bounds import Bounds

TOKEN = "the service was started with --token, and it is missing or wrong"
NOT_READY = "The model is being made ready, or the service stops"
SEGMENT = {
    "type": "object", "required": ["start", "end", "text"], "additionalProperties": False,
    "properties": {
        "start": {"type": "number", "description": "seconds"}, "end": {"type": "number", "description": "seconds"},
        "text": {"type": "string"},
    },
}  # fmt: skip
TRANSLATION = {
    "type": "object", "required": ["text", "segments"], "additionalProperties": False,
    "properties": {
        "text": {"type": "string", "description": "the texts of all segments"},
        "segments": {"type": "array", "items": {"$ref": "#/components/schemas/Segment"}},
    },
}  # fmt: skip
MODEL = {
    "type": "object", "required": ["name", "languages", "language", "fps", "streams", "landmarks", "seconds"],
    "properties": {
        "name": {"type": "string"},
        "languages": {"type": "array", "items": {"type": "string"}, "description": "to choose from, if several"},
        "language": {"type": ["string", "null"], "description": "the usual one"},
        "fps": {"type": "number", "description": "pictures a second that it reads"},
        "streams": {"type": "array", "items": {"type": "string"}}, "landmarks": {"type": "string"},
        "seconds": {"type": "number", "description": "of signing that it looks at together"},
        "mirrored": {"type": "boolean"},
    },
}  # fmt: skip
STREAM = """Open a WebSocket. Send `{"type": "start"}` as text, with `token` if the service has one and `language` if
the model has several. Wait for `{"type": "ready", "fps", "in_flight", "language"}`. Then send pictures as binary
messages: 8 bytes of time (seconds, float64, little-endian; each later than the one before), then a JPEG. Keep at most
`in_flight` of them unanswered, by the newest message that says so. Send `{"type": "end"}` at last.

The service answers in JSON: `frame` (`done` and `dropped` pictures so far; `in_flight`; the `time` of the frame looked
at, `boxes` as left, top, right, bottom in pixels by stream, `points` as x, y, confidence), `text` (`time`; `settled`,
which is never taken back, and `pending` of the sentence that is being signed; `ended` sentences with `start`, `end` and
`text`) and `error` before a close that is not normal. Close codes: 1000 done, 1001 the service stops, 1003 no JPEG,
1007 bad data, 1009 too big, 1011 the service has failed, 1013 all places are taken or the model is not ready, 3000
token, 3008 idle, too long, or nothing is read."""


def document(bounds: Bounds, *, token: bool) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    guarded: dict[str, Any] = {"security": [{"token": []}]} if token else {}
    unauthorised = {"401": failure(TOKEN)} if token else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "slt_jax", "version": _version(),
                 "description": "From signing to text. Nothing that is sent is kept."},
        "paths": {
            "/v1/translate": {"post": guarded | _translate(bounds) | {"responses": TRANSLATED | unauthorised}},
            "/v1/stream": {"get": {
                "summary": "Translate a camera, by a WebSocket", "operationId": "stream", "description": STREAM,
                "responses": {"101": {"description": "The WebSocket is open"},
                              "403": failure("A page from elsewhere asks"),
                              "426": failure("No WebSocket is asked for")}}},
            "/v1/models": {"get": guarded | {
                "summary": "The models", "operationId": "models",
                "responses": {"200": {"description": "What there is", "content": {"application/json": {"schema": {
                    "type": "object", "required": ["models", "sample"], "properties": {
                        "models": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
                        "sample": {"type": "boolean", "description": "whether the page has a video to show"}}}}}},
                    **unauthorised, "403": failure("A page from elsewhere asks")}}},
            "/healthz": {"get": plain("Whether the process lives", "health", {})},
            "/readyz": {"get": plain("Whether it can translate", "readiness", {"503": failure(NOT_READY)})},
            "/metrics": {"get": guarded | plain("Numbers for Prometheus", "metrics", unauthorised)},
        },
        "components": {
            "schemas": {"Segment": SEGMENT, "Translation": TRANSLATION, "Model": MODEL, "Error": {
                "type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}},
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if token else {}),
        },
    }  # fmt: skip


def _translate(bounds: Bounds) -> dict[str, Any]:
    return {
        "summary": "Translate a video", "operationId": "translate",
        "description": f"At most {bounds.max_upload_mb:g} MB and {bounds.max_seconds:g} seconds. Among server-sent "
        "events, `progress` (`frames`, `expected`), `segment`, and at last `done` or `error` come.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
            "type": "object", "required": ["file"], "properties": {
                "file": {"type": "string", "format": "binary",
                         "description": "mp4, mov, m4v, mkv, webm, avi or gif"},
                "language": {"type": "string", "description": "one of the model's languages"},
            }}}}},
    }  # fmt: skip


def failure(description: str) -> dict[str, Any]:
    """A response that says in one line what is wrong."""
    return {"description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}  # fmt: skip


def plain(summary: str, operation: str, others: dict[str, Any]) -> dict[str, Any]:
    """An operation that answers in plain text."""
    text = {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": summary, "operationId": operation, "responses": {"200": text, **others}}


TRANSLATED = {
    "200": {"description": "The text", "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Translation"}},
        "application/x-subrip": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": {"type": "string"}}}},
    "400": failure("The form or the language is wrong"), "403": failure("A page from elsewhere asks"),
    "406": failure("Accept names no kind that there is"), "408": failure("The sender stalls"),
    "413": failure("The request is too large"), "415": failure("The request is no multipart/form-data"),
    "422": failure("The video cannot be used"), "429": failure("Too many videos wait"), "503": failure(NOT_READY),
}  # fmt: skip


def _version() -> str:
    try:
        return version("slt-jax")
    except PackageNotFoundError:
        return "0"
