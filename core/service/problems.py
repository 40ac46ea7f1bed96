"""What the service says when it cannot do what it was asked: one sentence, its next step, and a status.

Under /api as problem details (RFC 9457) with our hint; on the OpenAI-compatible routes in OpenAI's form, which their
clients read. Knows no route of its own.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from core.runs.measuring import BusyError
from core.types import to_json
from hardware.errors import ExplorerError

TITLES = {
    400: "Bad request",
    401: "No valid key",
    403: "Not from a web page of another address",
    404: "Not found",
    405: "Method not allowed",
    409: "Another measurement is going",
    413: "Body too large",
    415: "Not JSON",
    421: "Foreign Host header",
    422: "Cannot run",
    500: "The service failed",
    503: "Busy",
}
_KINDS = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "overloaded_error"}


class ProblemError(ExplorerError):
    """An error with its HTTP status. retry_after_s: when to ask again. param, code: of OpenAI's errors."""

    def __init__(
        self,
        status: int,
        message: str,
        hint: str,
        retry_after_s: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.retry_after_s, self.param, self.code = status, retry_after_s, param, code


def problem_of(error: ExplorerError) -> ProblemError:
    """The problem that an error of the rest of Roofscope is."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, BusyError):
        return ProblemError(409, error.message, error.hint, retry_after_s=5)
    return ProblemError(422, error.message, error.hint)


def is_openai(path: str) -> bool:
    """Whether a path is one of the OpenAI-compatible server's."""
    return path.startswith("/v1/") or path in ("/tokenize", "/detokenize", "/tokenizer_info")


def response(problem: ProblemError, path: str) -> Response:
    """The answer to a request for `path`."""
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if is_openai(path):
        return Response(to_json(openai_error(problem)), problem.status, headers, "application/json")
    body = {
        "type": "about:blank",
        "title": TITLES.get(problem.status, "Cannot be done"),
        "status": problem.status,
        "detail": problem.message,
        "hint": problem.hint,
    }
    return Response(to_json(body), problem.status, headers, "application/problem+json")


def openai_error(problem: ProblemError) -> dict[str, Any]:
    """The body of an error as OpenAI's clients read it; the hint is the second sentence."""
    message = f"{problem.message} {problem.hint}".strip()
    kind = _KINDS.get(problem.status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": problem.param, "code": problem.code}}
