"""`/docs`: the OpenAPI document as a page to read. Self-contained: nothing is fetched from elsewhere."""

import html
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

Json = dict[str, Any]
_HTTP_METHODS = ("get", "post", "put", "patch", "delete")
_CODE = re.compile(r"`([^`]+)`")


def render_docs(document: Json) -> str:
    """The page for an OpenAPI document that `build_openapi` made."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    environment.filters["kind"] = kind
    environment.filters["name"] = _name
    operations = [
        {"method": method.upper(), "path": path, **item[method]}
        for path, item in document["paths"].items()
        for method in _HTTP_METHODS
        if method in item
    ]
    by_tag = {
        tag["name"]: [operation for operation in operations if tag["name"] in operation["tags"]]
        for tag in document["tags"]
    }
    return environment.get_template("docs.html.j2").render(document=document, by_tag=by_tag)


def prose(text: str) -> Markup:
    """Comments as HTML: paragraphs, lists of `- ` lines, and code in backticks. Everything else is escaped."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if not lines:
            continue
        if all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return Markup("".join(blocks))  # noqa: S704 -- every piece is escaped by _inline


def kind(schema: Json) -> Markup:
    """A schema in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = _name(schema)
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if schema.get("type") == "array":
        return Markup("list of {}").format(kind(schema["items"]))
    if isinstance(schema.get("additionalProperties"), dict):
        return Markup("map of {}").format(kind(schema["additionalProperties"]))
    words = [str(schema.get("format") or schema.get("type") or "any")]
    words += [f"≤ {schema[key]} characters" for key in ("maxLength",) if schema.get(key, 1000) != 1000]  # noqa: PLR2004
    words += [f"≥ {schema['minimum']}" for _ in "1" if "minimum" in schema]
    words += [f"≤ {schema['maximum']}" for _ in "1" if "maximum" in schema]
    return Markup("{}").format(", ".join(words))


def _name(schema: Json) -> str:
    return str(schema["$ref"]).rsplit("/", 1)[-1]


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", html.escape(text, quote=False))
