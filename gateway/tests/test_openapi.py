"""The OpenAPI document: complete, consistent with itself and with the routes, and readable."""

import json
import re

import pytest

from gateway.app import API_VERSION
from gateway.catalogue import Shape, read_methods, stub_files
from gateway.comments import read_comments
from gateway.docs import prose, render_docs
from gateway.openapi import build_openapi
from gateway.routes import Routes
from gateway.tests.fakes import api
from gateway.transcoding import query_parameters

STUBS = [file for file in stub_files() if "gatewaytest" not in file.package]
REAL = read_methods(STUBS)
SMALL = read_methods([api.pb.DESCRIPTOR])
COMMENTS = read_comments(api.descriptors)


def build(methods, comments=COMMENTS):
    return build_openapi(methods, comments, server="http://gateway.test", version=API_VERSION)


def nodes(value):
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from nodes(each)


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


@pytest.fixture(params=["small", "real"])
def document(request):
    """The document of the test's API, and that of the services as they are now."""
    return build(SMALL if request.param == "small" else REAL)


def test_document__references_resolve(document):
    """No reference leads nowhere, and every schema is used."""
    used = set()
    for node in nodes(document):
        if "$ref" in node:
            _, _, kind, name = node["$ref"].split("/")
            assert name in document["components"][kind], node
            used.add((kind, name))

    named = {(kind, name) for kind in ("schemas", "responses") for name in document["components"][kind]}
    assert {name for kind, name in named - used if kind == "schemas"} == set()


def test_document__operations_are_whole(document):
    """Every operation has a unique id, a summary, its path's parameters, security and documented problems."""
    ids = []
    for path, method, operation in operations(document):
        ids.append(operation["operationId"])
        parameters = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert parameters == set(re.findall(r"\{(\w+)\}", path)), path
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}
        assert "security" in operation
        assert "500" in operation["responses"]
        assert {"200", "302"} & set(operation["responses"])
        assert method in ("get", "post", "delete", "patch", "put")
        if method in ("get", "delete"):
            assert "requestBody" not in operation
    assert len(ids) == len(set(ids))


def test_document__says_what_is_served(document):
    """Each path of the document, with values for its parameters, leads to a route, with the HTTP method that it says."""
    routes = Routes(REAL + SMALL)
    for path, method, operation in operations(document):
        if not operation["operationId"].startswith("gateway."):
            route, _ = routes.find(method.upper(), re.sub(r"\{\w+\}", "x", path))
            assert route.method.descriptor.name in operation["operationId"]


def test_document__every_route_is_said():
    """Nothing is served that the document does not say."""
    document = build(REAL)

    assert sum(
        1 for _, _, operation in operations(document) if not operation["operationId"].startswith("gateway.")
    ) == sum(len(method.bindings) for method in REAL)


def test_document__is_json(document):
    """The document survives JSON, and the page is made of it."""
    assert json.loads(json.dumps(document)) == document
    assert "<h1>" in render_docs(document)


def test_operation__details():
    """Comments, limits, enums, required fields, keys and callers are told."""
    document = build(SMALL)
    create = document["paths"]["/v1/enterprises/{enterprise}/boxes"]["post"]
    box = document["components"]["schemas"]["gatewaytest.Box"]

    assert create["summary"] == "Creates a box"
    assert "`BOX" not in create["summary"]
    assert "Members need one of the roles OWNER, EDITOR." in create["description"]
    assert "admitted to `enterprise-beta`" in create["description"]
    assert create["security"] == [{"bearer": []}, {"oauth2": ["boxes.write"]}]
    by_name = {each["name"]: each for each in create["parameters"]}
    assert by_name["boxId"]["schema"] == {"type": "string", "maxLength": 20, "pattern": "^(?:[a-z]+)?$"}
    assert by_name["Idempotency-Key"]["in"] == "header"
    assert create["requestBody"]["required"]
    assert box["required"] == ["displayName"]
    assert box["properties"]["displayName"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 40,
        "description": "What people call it.",
    }
    assert box["properties"]["createTime"]["readOnly"]
    assert box["properties"]["weight"]["type"] == "string"
    assert box["properties"]["contents"]["maxItems"] == 10
    assert "Not together with `shelf`" in box["properties"]["person"]["description"]
    assert document["components"]["schemas"]["gatewaytest.Size"]["enum"] == [
        "SIZE_UNSPECIFIED",
        "SMALL",
        "LARGE",
    ]
    assert "- `SMALL`: Small." in document["components"]["schemas"]["gatewaytest.Size"]["description"]
    assert document["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"][
        "scopes"
    ].keys() == {"boxes.write"}


def test_operation__tells_what_the_services_check():
    """Ids have no odd characters, required lists and texts are not empty, pages are not negative, one way of many is taken."""
    document = build(REAL)
    parameters = document["paths"]["/v1/enterprises/{enterprise}/accounts"]["get"]["parameters"]
    schema_of = {each["name"]: each["schema"] for each in parameters}
    schemas = document["components"]["schemas"]

    assert re.fullmatch(schema_of["enterprise"]["pattern"], "0gjhrbmv2y3b7sppfav46xm8rv")
    assert not re.fullmatch(schema_of["enterprise"]["pattern"], "a b")
    assert schema_of["pageSize"]["minimum"] == 0
    assert schemas["targeting.RuleList"]["properties"]["rules"]["minItems"] == 1
    assert schemas["targeting.Rule"]["maxProperties"] == 1
    assert schemas["placement.Module"]["properties"]["title"]["minLength"] == 1
    assert schemas["placement.Module"]["properties"]["title"]["maxLength"] == 120
    assert (
        "maxLength" not in schemas["rollout.AuditEvent"]["properties"]["detail"]
    )  # ours, and as long as it is


def test_answers__have_no_limit_of_length_that_requests_do_not_have():
    """What a request may say in 4,000 characters comes back in an answer whose schema allows as many."""
    schemas = build(REAL)["components"]["schemas"]

    assert "maxLength" not in schemas["accounts.ReviewNote"]["properties"]["text"]
    assert "maxItems" not in schemas["accounts.ListReviewNotesResponse"]["properties"]["reviewNotes"]
    assert schemas["publishing.Publication"]["properties"]["accounts"]["maxItems"]
    assert schemas["publishing.Variant"]["properties"]["text"]["maxLength"]


def test_operation__statuses_fit_the_method():
    """412 needs an etag, 422 a key, 413 a body."""
    paths = build(SMALL)["paths"]
    open_box = set(paths["/v1/enterprises/{enterprise}/boxes/{box}:open"]["post"]["responses"])
    list_boxes = set(paths["/v1/enterprises/{enterprise}/boxes"]["get"]["responses"])

    assert {"412", "413", "415", "422"} <= open_box
    assert not {"412", "413", "415", "422"} & list_boxes


def test_operation__streams_and_uploads():
    """Streams are event streams; uploads, downloads and pages have their own content."""
    paths = build(SMALL)["paths"]
    unpack = paths["/v1/enterprises/{enterprise}/boxes/{box}:unpack"]["get"]
    assert unpack["responses"]["200"]["content"] == {
        "*/*": {"schema": {"type": "string", "format": "binary"}}
    }
    watch = paths["/v1/enterprises/{enterprise}/boxes:watch"]["get"]
    fill = paths["/v1/enterprises/{enterprise}/boxes:fill"]["post"]

    assert list(watch["responses"]["200"]["content"]) == ["text/event-stream"]
    data = watch["responses"]["200"]["content"]["text/event-stream"]["schema"]["properties"]["data"]
    assert {"$ref": "#/components/schemas/gatewaytest.WatchBoxesResponse"} in data["contentSchema"]["anyOf"]
    assert {each["name"] for each in watch["parameters"]} == {"enterprise", "afterSequence", "Last-Event-ID"}
    assert fill["requestBody"]["content"]["*/*"]["schema"]["format"] == "binary"
    assert {each["name"] for each in fill["parameters"]} == {"enterprise", "strictness"}


def test_real__contract_is_servable():
    """The services' own protos: no route twice, every comment in place, uploads and streams as the gateway can serve them."""
    Routes(REAL)
    from pathlib import Path

    import numerator

    comments = read_comments(Path(next(iter(numerator.__path__)), "descriptors.binpb").read_bytes())
    for method in REAL:
        assert comments[method.name], method.name
        assert method.callers, method.name
        if method.shape is Shape.EVENTS:
            assert method.resume is not None, method.name
        for binding in method.bindings:
            for parameter in query_parameters(method, binding):
                assert comments[parameter.field.full_name], parameter.field.full_name


def test_prose__escapes_all_but_its_own_marks():
    """Comments cannot put HTML into the page."""
    assert prose("a <b> `x<y`\n\n- one\n- two & three") == (
        "<p>a &lt;b&gt; <code>x&lt;y</code></p><ul><li>one</li><li>two &amp; three</li></ul>"
    )


@pytest.mark.asyncio(loop_scope="session")
async def test_served__document_and_page(http):
    """Both are served with an ETag; the page needs nothing from elsewhere."""
    document = await http.get("/openapi.json")
    page = await http.get("/docs")
    again = await http.get("/docs", headers={"if-none-match": page.headers["etag"]})
    landing = await http.get("/")

    assert document.json()["openapi"] == "3.1.0"
    assert again.status_code == 304
    assert "script-src 'unsafe-inline'" in page.headers["content-security-policy"]
    assert not re.search(r'(src|href)="(https?:)?//', page.text)
    assert '<a href="/docs">' in landing.text


@pytest.mark.asyncio(loop_scope="session")
async def test_health__live_and_ready(gateway):
    """The gateway is live at once, and ready when services and admissions are there."""
    live = await gateway.http.get("/healthz")
    ready = await gateway.http.get("/readyz")

    assert live.json() == {"status": "ok"}
    assert ready.json() == {
        "status": "ready",
        "services": dict.fromkeys(("gatewaytest", "accounts", "analytics", "rollout"), "SERVING"),
        "snapshotVersion": 1,
        "admissionsVersion": 1,
        "stale": False,
    }
