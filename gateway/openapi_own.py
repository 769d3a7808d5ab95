"""The OpenAPI of the routes that are the gateway's own, and of problems."""

from typing import Any

Json = dict[str, Any]


def _json(schema: Json, description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _problems(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


_TEXT = {"type": "string"}
_TOKEN = {
    "access_token": {"type": "string", "description": "Send it as `Authorization: Bearer …`."},
    "token_type": {"const": "Bearer"},
    "expires_in": {"type": "integer", "description": "Seconds."},
    "scope": {"type": "string", "description": "The scopes, with spaces between them."},
}

OWN_SCHEMAS: dict[str, Json] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457 problem details. Programs branch on `reason`; docs/errors.md lists them.",
        "required": ["type", "title", "status", "detail", "reason"],
        "properties": {
            "type": {"type": "string", "format": "uri", "examples": ["urn:numerator:problem:not-admitted"]},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": {
                "type": "string",
                "description": "For developers: what was wrong, and how to do it right.",
            },
            "instance": {"type": "string", "description": "The path that was asked for."},
            "reason": {"type": "string", "examples": ["NOT_ADMITTED"]},
            "metadata": {"type": "object", "additionalProperties": _TEXT},
            "violations": {"type": "array", "items": _ref("Violation")},
            "retryAfter": {"type": "integer", "description": "Seconds until another try may succeed."},
            "traceId": {"type": "string", "description": "Names the request in our logs."},
            "admission": _ref("Admission"),
        },
    },
    "Violation": {
        "type": "object",
        "description": "One field or parameter that is wrong.",
        "required": ["field", "description", "reason"],
        "properties": {"field": _TEXT, "description": _TEXT, "reason": _TEXT},
    },
    "Admission": {
        "type": "object",
        "description": "Where an enterprise stands that is not admitted.",
        "properties": {
            "state": _TEXT,
            "stage": _TEXT,
            "reason": {"type": "string", "examples": ["NOT_VERIFIED"]},
            "position": {
                "type": "integer",
                "description": "The place on the waitlist, from 1; 0 when there is none.",
            },
            "nextStep": {"type": "string", "description": "What to do next, with the call to make."},
        },
    },
    "OAuthError": {
        "type": "object",
        "description": "RFC 6749, section 5.2.",
        "required": ["error"],
        "properties": {"error": _TEXT, "error_description": _TEXT},
    },
    "AccessToken": {
        "type": "object",
        "description": "An access token.",
        "required": ["access_token", "token_type", "expires_in", "scope"],
        "properties": _TOKEN,
    },
    "Session": {
        "type": "object",
        "description": "A member's access token, and who the member is.",
        "required": ["access_token", "token_type", "expires_in", "scope", "member", "enterprise", "roles"],
        "properties": {
            **_TOKEN,
            "member": _TEXT,
            "enterprise": _TEXT,
            "roles": {"type": "array", "items": _TEXT},
        },
    },
}

_OAUTH_ERROR = _json(_ref("OAuthError"), "The request, the client or the scope is wrong.")

OWN_PATHS: dict[str, Json] = {
    "/oauth2/token": {
        "post": {
            "operationId": "gateway.CreateToken",
            "tags": ["identity"],
            "summary": "Get a client's access token",
            "description": "OAuth2 client credentials (RFC 6749, section 4.4). The token lives for 10 minutes. Tries are "
            "limited by client and by address.",
            "security": [{"client": []}, {}],
            "requestBody": {
                "required": True,
                "content": {
                    "application/x-www-form-urlencoded": {
                        "schema": {
                            "type": "object",
                            "required": ["grant_type"],
                            "properties": {
                                "grant_type": {"const": "client_credentials"},
                                "scope": {
                                    "type": "string",
                                    "description": "Fewer scopes than the client has.",
                                },
                                "client_id": {"type": "string", "description": "Instead of HTTP Basic."},
                                "client_secret": {"type": "string", "description": "Instead of HTTP Basic."},
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": _json(_ref("AccessToken"), "The token."),
                "400": _OAUTH_ERROR,
                "401": _OAUTH_ERROR,
                **_problems(413, 429, 431, 500, 503, 504),
            },
        }
    },
    "/v1/sessions": {
        "post": {
            "operationId": "gateway.CreateSession",
            "tags": ["identity"],
            "summary": "Log a member in",
            "description": "The token lives for an hour. Tries are limited by account and by address.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["email", "password"],
                            "additionalProperties": False,
                            "properties": {
                                "email": {"type": "string", "minLength": 1, "maxLength": 254},
                                "password": {"type": "string", "minLength": 1, "maxLength": 200},
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": _json(_ref("Session"), "The session."),
                **_problems(400, 401, 413, 415, 429, 431, 500, 503, 504),
            },
        }
    },
    "/.well-known/jwks.json": {
        "get": {
            "operationId": "gateway.GetKeys",
            "tags": ["identity"],
            "summary": "The keys that verify access tokens",
            "security": [],
            "responses": {
                "200": _json({"type": "object"}, "A JSON Web Key Set (RFC 7517)."),
                **_problems(431, 500),
            },
        }
    },
    "/.well-known/oauth-authorization-server": {
        "get": {
            "operationId": "gateway.GetMetadata",
            "tags": ["identity"],
            "summary": "What an OAuth2 client needs to know",
            "security": [],
            "responses": {"200": _json({"type": "object"}, "Metadata (RFC 8414)."), **_problems(431, 500)},
        }
    },
    "/healthz": {
        "get": {
            "operationId": "gateway.GetLiveness",
            "tags": ["identity"],
            "summary": "Whether the gateway runs",
            "security": [],
            "responses": {"200": _json({"type": "object"}, "It runs."), **_problems(431, 500)},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "gateway.GetReadiness",
            "tags": ["identity"],
            "summary": "Whether the gateway and the services behind it can work",
            "security": [],
            "responses": {
                "200": _json({"type": "object"}, "All are ready."),
                "503": _json({"type": "object"}, "Not all are ready; the body says which."),
                **_problems(431, 500),
            },
        }
    },
    "/openz": {
        "get": {
            "operationId": "gateway.GetOpenness",
            "tags": ["identity"],
            "summary": "Whether this gateway takes requests, whichever services are away",
            "security": [],
            "responses": {
                "200": _json({"type": "object"}, "It does."),
                "503": _json({"type": "object"}, "It does not: it starts or stops."),
                **_problems(431, 500),
            },
        }
    },
}
