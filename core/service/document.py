"""The OpenAPI document, made from the Records themselves, and a page that shows it without fetching anything.

FastAPI knows no msgspec, so the schemas of bodies and answers are put beside its own; its pages load their scripts from
elsewhere, and are blank without a network.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from core.types import Record

REF = "#/components/schemas/{name}"
_named: list[Any] = []  # every type that a route has named


class ProblemDetails(Record, omit_defaults=False):
    """What went wrong (RFC 9457), and the next step."""

    type: str
    title: str
    status: int
    detail: str
    hint: str


def schema(kind: Any) -> dict[str, Any]:
    """Where the document has a type; remembers it for the components."""
    if kind not in _named:
        _named.append(kind)
    (found,), _ = msgspec.json.schema_components([kind], ref_template=REF)
    return found


def body(kind: Any) -> dict[str, Any]:
    """What a route says of the body that it takes."""
    content = {"application/json": {"schema": schema(kind)}}
    return {"openapi_extra": {"requestBody": {"required": True, "content": content}}}


def says(kind: Any, status: int = 200, media: str = "application/json", note: str = "Done") -> dict[str, Any]:
    """What a route says of its answers: one of this type, and a problem where it could not."""
    problem = {"description": "A problem", "content": {"application/problem+json": {"schema": schema(ProblemDetails)}}}
    good = {"description": note, "content": {media: {"schema": schema(kind)}}}
    return {"responses": {status: good, "4XX": problem}, "response_model": None}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application, with the Records among its components."""
    found: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, components = msgspec.json.schema_components(_named, ref_template=REF)
    found.setdefault("components", {}).setdefault("schemas", {}).update(components)
    return found


def page(found: Mapping[str, Any]) -> str:
    """The document as one HTML page without scripts."""
    rows = []
    for path, methods in found["paths"].items():
        for method, about in methods.items():
            takes = _link(about.get("requestBody", {}).get("content", {}))
            gives = _link(next((r.get("content", {}) for c, r in about["responses"].items() if c[0] == "2"), {}))
            cells = (f"<code>{method.upper()} {html.escape(path)}</code>", html.escape(about["summary"]), takes, gives)
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    kinds = "".join(_kind(name, about) for name, about in sorted(found["components"]["schemas"].items()))
    return _PAGE.format(
        title=html.escape(found["info"]["title"]),
        about=html.escape(found["info"]["description"]),
        rows="\n".join(rows),
        kinds=kinds,
    )


def _kind(name: str, about: Mapping[str, Any]) -> str:
    described = html.escape(about.get("description", ""))
    fields = "".join(
        f"<tr><td><code>{html.escape(field)}</code></td><td>{_type(kind)}</td></tr>"
        for field, kind in about.get("properties", {}).items()
    )
    table = f"<table>{fields}</table>" if fields else ""
    return f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3><p>{described}</p>{table}'


def _type(kind: Mapping[str, Any]) -> str:
    if "$ref" in kind:
        name = html.escape(kind["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in kind:
        return " or ".join(_type(one) for one in kind["anyOf"])
    if kind.get("type") == "array":
        inner = kind.get("items")
        return f"list of {_type(inner)}" if isinstance(inner, Mapping) and inner else "list"
    if "enum" in kind:
        return html.escape(", ".join(map(str, kind["enum"])))
    limits = "".join(f", {key} {kind[key]}" for key in ("minimum", "maximum", "default") if key in kind)
    return html.escape(f"{kind.get('type', 'anything')}{limits}")


def _link(content: Mapping[str, Mapping[str, Any]]) -> str:
    found: Sequence[Mapping[str, Any]] = [about.get("schema", {}) for about in content.values()]
    return " or ".join(_type(kind) for kind in found if kind)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; }}
tr {{ border-bottom: 1px solid #8884; }}
@media (max-width: 45rem) {{ th {{ display: none; }} td {{ display: block; padding-right: 0; }} }}
</style>
<h1>{title}</h1><p>{about}</p><p>The same for programs: <a href="/openapi.json">openapi.json</a></p>
<h2>Routes</h2>
<table><tr><th>Route</th><th>What it does</th><th>Takes</th><th>Gives</th></tr>{rows}</table>
<h2>Types</h2>{kinds}
</html>
"""
