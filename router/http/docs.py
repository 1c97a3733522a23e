"""GET /docs: the OpenAPI document as one page without scripts or anything fetched from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { background: #f4f4f5; padding: .8rem; overflow-x: auto; border-radius: 4px; }
code { font-size: 90%; } th, td { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
@media (prefers-color-scheme: dark) {
  body { background: #18181b; color: #e4e4e7; } pre { background: #27272a; } a { color: #93c5fd; }
}
"""
_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


def add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(render(app.openapi()), headers=_POLICY)


def render(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document; every text in it is escaped."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        '<p>The same for machines: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            parts.extend(_operation(method, path, operation))
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(
            f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        )
        parts.append(_fields(schema))
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    parts = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
    headers = [(p["name"], p.get("description", "")) for p in operation.get("parameters", ())]
    if headers:
        parts.append("<h3>Parameters and headers</h3>" + _table(headers))
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h3>Body: {escape(media)}, {_type(content['schema'])}</h3>")
        parts.extend(_examples(content))
    for status, response in operation["responses"].items():
        parts.append(f"<h3>{escape(status)}</h3><p>{escape(response['description'])}</p>")
        for media, content in response.get("content", {}).items():
            schema = content["schema"]
            parts.append(f"<p>{escape(media)}: {_type(schema)} {escape(schema.get('description', ''))}</p>")
            parts.extend(_examples(content))
        if "headers" in response:
            parts.append(_table([(name, h["description"]) for name, h in response["headers"].items()]))
    return parts


def _examples(content: dict[str, Any]) -> list[str]:
    named = {name: example["value"] for name, example in content.get("examples", {}).items()}
    if "example" in content:
        named["example"] = content["example"]
    return [f"<p>{escape(name)}</p><pre>{escape(_pretty(value))}</pre>" for name, value in named.items()]


def _pretty(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}<td>{_type(field)}"
        f"<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _table(rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td><code>{escape(name)}</code><td>{escape(text)}" for name, text in rows)
    return f"<table>{body}</table>"


_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems")


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(_type(option) for option in schema[union])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return escape(" | ".join(json.dumps(value) for value in values))
    bounds = ", ".join(f"{bound} {schema[bound]}" for bound in _BOUNDS if bound in schema)
    text = escape(schema.get("type", "any") + (f" ({bounds})" if bounds else ""))
    return f"{text} of {_type(schema['items'])}" if "items" in schema else text
