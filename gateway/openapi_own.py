"""The OpenAPI of the routes that are the gateway's own, of problems, and of OFREP."""

from typing import Any

Json = dict[str, Any]


def _json(schema: Json, description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _problems(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def _pages(*statuses: int) -> Json:
    """Pages for people, which say what happened and what to do."""
    page = {"description": "A page for people.", "content": {"text/html": {"schema": {"type": "string"}}}}
    return {str(status): page for status in statuses}


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
    "MemberSession": {
        "type": "object",
        "description": "A member's access token, and who the member is.",
        "required": [
            "access_token",
            "token_type",
            "expires_in",
            "scope",
            "refresh_token",
            "refresh_expires_in",
            "session",
            "member",
            "enterprise",
            "roles",
        ],
        "properties": {
            **_TOKEN,
            "refresh_token": {
                "type": "string",
                "description": "Gets the next access token, once, at `POST /v1/sessions:refresh`. Shown a second time it ends "
                "the session, because then somebody has a copy.",
            },
            "refresh_expires_in": {
                "type": "integer",
                "description": "Seconds until the session ends, unless it is refreshed.",
            },
            "session": {"type": "string", "description": "Its name, by which it can be ended."},
            "member": _TEXT,
            "enterprise": _TEXT,
            "roles": {"type": "array", "items": _TEXT},
        },
    },
}

OWN_SCHEMAS |= {
    "OfrepRequest": {
        "type": "object",
        "description": "For whom a flag is asked, and what rules of ordinary flags may know besides.",
        "properties": {
            "context": {
                "type": "object",
                "properties": {
                    "targetingKey": {
                        "type": "string",
                        "description": "The enterprise. Members and clients may leave it out; it is their own.",
                        "examples": ["enterprises/0gjhrbmv2y3b7sppfav46xm8rv"],
                    }
                },
                "additionalProperties": True,
            }
        },
    },
    "OfrepEvaluation": {
        "type": "object",
        "description": "A flag's value.",
        "required": ["key", "value", "variant", "reason", "metadata"],
        "properties": {
            "key": _TEXT,
            "value": {"description": "Of the flag's type. A float is written as one: 1.0."},
            "variant": {"type": "string", "description": 'The name of the value; "" for one without a name.'},
            "reason": {"enum": ["STATIC", "TARGETING_MATCH", "SPLIT", "DISABLED", "UNKNOWN"]},
            "metadata": {
                "type": "object",
                "description": "`version` of the snapshot, and whether what the gateway knows is `stale`. Of a rollout's flag "
                "also `rollout`, its `stage`, and as `decision` ADMITTED or why the enterprise is not in.",
                "required": ["version", "stale"],
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            },
        },
    },
    "OfrepError": {
        "type": "object",
        "description": "OFREP's form of an error. Programs of ours branch on `reason`; docs/errors.md lists them.",
        "required": ["errorCode", "errorDetails", "reason"],
        "properties": {
            "key": {"type": "string", "description": "The flag, when one was asked for."},
            "errorCode": {
                "enum": [
                    "PARSE_ERROR",
                    "TARGETING_KEY_MISSING",
                    "INVALID_CONTEXT",
                    "FLAG_NOT_FOUND",
                    "GENERAL",
                ]
            },
            "errorDetails": _TEXT,
            "reason": _TEXT,
        },
    },
    "OfrepEvaluations": {
        "type": "object",
        "description": "All flags.",
        "required": ["flags", "eventStreams", "metadata"],
        "properties": {
            "flags": {"type": "array", "items": {"anyOf": [_ref("OfrepEvaluation"), _ref("OfrepError")]}},
            "eventStreams": {
                "type": "array",
                "description": "Where to hear of changes. The address is good for an hour at least, and for nothing else.",
                "items": {
                    "type": "object",
                    "required": ["type", "url"],
                    "properties": {"type": {"const": "sse"}, "url": {"type": "string", "format": "uri"}},
                },
            },
            "metadata": {
                "type": "object",
                "properties": {"version": {"type": "integer"}, "stale": {"type": "boolean"}},
            },
        },
    },
}


def _ofrep_errors(*statuses: int) -> Json:
    """Errors in the protocol's own form; what goes wrong before it is looked at is a problem."""
    described = {
        400: "The request is wrong, or the flag's rule fails on this context.",
        401: "No access token, or one that is not good.",
        403: "Flags of another enterprise.",
        404: "There is no such flag.",
        413: "The body is larger than 64 KiB.",
        429: "Too many requests; come back after `Retry-After` seconds.",
        503: "It is not known yet who is admitted; come back after `Retry-After` seconds.",
    }
    own = {str(status): _json(_ref("OfrepError"), described[status]) for status in statuses}
    return {**own, **_problems(431, 500)}


_ANYBODY_KNOWN: list[Json] = [{"bearer": []}, {"oauth2": []}]
_OFREP_BODY = {"content": {"application/json": {"schema": _ref("OfrepRequest")}}}
_ETAG = {"ETag": {"description": "Of this answer; send it as If-None-Match.", "schema": _TEXT}}

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
            "description": "The access token lives for 10 minutes; refresh it at `POST /v1/sessions:refresh`. Who has a second "
            "factor sends its code as `totp`: without it, 401 `TOTP_REQUIRED`. Tries are limited by account and by address.",
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
                                "totp": {"type": "string", "minLength": 1, "maxLength": 100},
                                "enterprise": {
                                    "type": "string",
                                    "minLength": 1,
                                    "maxLength": 100,
                                    "description": "For whom the access token is: another enterprise that granted "
                                    "the member rights in groups of its accounts. Without it, the member's own.",
                                },
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": _json(_ref("MemberSession"), "The session."),
                **_problems(400, 401, 403, 409, 413, 415, 429, 431, 500, 503, 504),
            },
        }
    },
    "/v1/sessions:refresh": {
        "post": {
            "operationId": "gateway.RefreshSession",
            "tags": ["identity"],
            "summary": "Get a member's next access token",
            "description": "Takes the newest refresh token and gives another one in its place. 401 `SESSION_ENDED`: log in "
            "again. One after the other: a refresh token that is shown twice ends the session.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["refresh_token"],
                            "additionalProperties": False,
                            "properties": {
                                "refresh_token": {"type": "string", "minLength": 1, "maxLength": 200},
                                "enterprise": {
                                    "type": "string",
                                    "minLength": 1,
                                    "maxLength": 100,
                                    "description": "For whom the access token is: another enterprise that granted "
                                    "the member rights in groups of its accounts. Without it, the member's own.",
                                },
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": _json(_ref("MemberSession"), "The session."),
                **_problems(400, 401, 403, 409, 413, 415, 429, 431, 500, 503, 504),
            },
        }
    },
    "/v1/sessions:startOidc": {
        "post": {
            "operationId": "gateway.StartOidcSession",
            "tags": ["identity"],
            "summary": "Log a member in by the enterprise's identity provider",
            "description": "For browsers: sets a cookie and says where the browser goes. The provider sends it back to "
            "`GET /oidc/{enterprise}`, which answers with the session. See docs/single-sign-on.md.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["enterprise"],
                            "additionalProperties": False,
                            "properties": {
                                "enterprise": {
                                    "type": "string",
                                    "pattern": "^enterprises/[a-z0-9][a-z0-9-]{0,62}$",
                                    "description": "Whose member logs in.",
                                }
                            },
                        }
                    }
                },
            },
            "responses": {
                "200": _json(
                    {
                        "type": "object",
                        "required": ["authorization_url", "expire_time"],
                        "properties": {
                            "authorization_url": {"type": "string", "format": "uri"},
                            "expire_time": {"type": "string", "format": "date-time"},
                        },
                    },
                    "Where the browser goes, and until when it has to be back.",
                ),
                **_problems(400, 409, 413, 415, 429, 431, 500, 503, 504),
            },
        }
    },
    "/oidc/{enterprise}": {
        "get": {
            "operationId": "gateway.CompleteOidcSession",
            "tags": ["identity"],
            "summary": "Come back from the identity provider",
            "description": "For browsers: where an enterprise's identity provider sends the browser back to. A state works once, "
            "for ten minutes, in the browser that began.",
            "security": [],
            "parameters": [
                {"name": "enterprise", "in": "path", "required": True, "schema": _TEXT},
                *(
                    {"name": name, "in": "query", "schema": _TEXT}
                    for name in ("state", "code", "error", "iss")
                ),
            ],
            "responses": {
                "200": _json(_ref("MemberSession"), "The session."),
                **_problems(400, 401, 403, 404, 409, 429, 431, 500, 503, 504),
            },
        }
    },
    "/invitations/{enterprise}/{token}": {
        "get": {
            "operationId": "gateway.OpenInvitation",
            "tags": ["identity"],
            "summary": "Open an invitation to bind an account",
            "description": "For browsers: an account's holder comes here by the link of an invitation. Starts a binding for this "
            "browser, which a cookie proves, and sends it to the network. Other answers are pages that say what to do.",
            "security": [],
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": _TEXT}
                for name in ("enterprise", "token")
            ],
            "responses": {
                "302": {
                    "description": "To the network's page, on which the holder agrees.",
                    "headers": {"Location": {"description": "The network's page.", "schema": _TEXT}},
                },
                **_pages(403, 404, 409, 429, 503, 504),
                **_problems(431, 500),
            },
        }
    },
    "/bound": {
        "get": {
            "operationId": "gateway.Bound",
            "tags": ["identity"],
            "summary": "Come back from the network",
            "description": "For browsers: where a network sends the holder of an account back to. Completes the binding that an "
            "invitation has started in this browser; for other bindings it shows what to complete them with.",
            "security": [],
            "parameters": [
                {"name": name, "in": "query", "schema": _TEXT} for name in ("state", "code", "error", "iss")
            ],
            "responses": {**_pages(200, 400, 403, 404, 409, 429, 503, 504), **_problems(431, 500)},
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
    "/ofrep/v1/evaluate/flags/{key}": {
        "post": {
            "operationId": "gateway.EvaluateFlag",
            "tags": ["flags"],
            "summary": "Evaluate a flag, as OFREP has it",
            "description": "The OpenFeature Remote Evaluation Protocol: OpenFeature's OFREP providers take the gateway's "
            "address and an access token.",
            "security": _ANYBODY_KNOWN,
            "parameters": [{"name": "key", "in": "path", "required": True, "schema": _TEXT}],
            "requestBody": _OFREP_BODY,
            "responses": {
                "200": _json(_ref("OfrepEvaluation"), "The value."),
                **_ofrep_errors(400, 401, 403, 404, 413, 429, 503),
            },
        }
    },
    "/ofrep/v1/evaluate/flags": {
        "post": {
            "operationId": "gateway.EvaluateFlags",
            "tags": ["flags"],
            "summary": "Evaluate all flags, as OFREP has it",
            "security": _ANYBODY_KNOWN,
            "parameters": [
                {
                    "name": "If-None-Match",
                    "in": "header",
                    "description": "The ETag of an answer: 304 when it would be the same.",
                    "schema": {"type": "string", "pattern": '^(W/)?"[!#-~]*"$'},
                },
                {
                    "name": "flagConfigEtag",
                    "in": "query",
                    "description": "The `etag` of the event that led here: the gateway waits a moment until it has that version.",
                    "schema": _TEXT,
                },
            ],
            "requestBody": _OFREP_BODY,
            "responses": {
                "200": {**_json(_ref("OfrepEvaluations"), "The values."), "headers": _ETAG},
                "304": {"description": "Nothing has changed.", "headers": _ETAG},
                **_ofrep_errors(400, 401, 403, 413, 429, 503),
            },
        }
    },
    "/ofrep/v1/events": {
        "get": {
            "operationId": "gateway.WatchFlags",
            "tags": ["flags"],
            "summary": "Hear that flags changed",
            "description": "Server-sent events that say no more than to evaluate again; one comes at once, unless "
            "`Last-Event-ID` is the newest. They tell what concerns the caller's enterprise; operators hear of everything.",
            "security": [*_ANYBODY_KNOWN, {}],
            "parameters": [
                {
                    "name": "token",
                    "in": "query",
                    "description": "As the address in the evaluation of all flags has it: browsers cannot send a header.",
                    "schema": _TEXT,
                },
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "description": "The id of the last event that was seen.",
                    "schema": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
                },
            ],
            "responses": {
                "200": {
                    "description": "The stream. It ends after an hour, or when the gateway stops.",
                    "content": {
                        "text/event-stream": {
                            "schema": {
                                "type": "object",
                                "required": ["event", "data"],
                                "properties": {
                                    "id": _TEXT,
                                    "event": {"const": "message"},
                                    "data": {
                                        "type": "string",
                                        "contentMediaType": "application/json",
                                        "contentSchema": {
                                            "type": "object",
                                            "required": ["type", "etag", "lastModified"],
                                            "properties": {
                                                "type": {"const": "refetchEvaluation"},
                                                "etag": _TEXT,
                                                "lastModified": {
                                                    "type": "integer",
                                                    "description": "Unix time.",
                                                },
                                            },
                                        },
                                    },
                                },
                            }
                        }
                    },
                },
                **_problems(401, 429, 431, 500),
            },
        }
    },
}
