"""The OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

API_KEY_SCHEME = "ApiKey"
FASTAPIS_422 = "HTTPValidationError"
DESCRIPTION = """\
Create, find and change people's tasks.

1. Register: `POST /api/v1/users`.
2. Log in: press **Authorize** and give the username and the password, or call
   `POST /api/v1/auth/token` and send the token as `Authorization: Bearer …`.
3. Create a task: `POST /api/v1/tasks`.

Every success is `{"status": "success", "message": …, "data": …}`; every error has a stable `code`,
and names the fields to blame in `errors`. Unknown fields and parameters are refused by name.
"""
TAGS = [
    {"name": "tasks", "description": "Tasks, only ever the caller's own."},
    {
        "name": "accounts",
        "description": "Registration, logins, API keys, the own account.",
    },
    {"name": "health", "description": "Probes for whoever runs the service."},
]


def operation_id(route: APIRoute) -> str:
    """Endpoints are named `verb_noun`; SDKs call their methods so."""
    return route.name


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document, without the 422 of FastAPI's own, which this service never answers."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            license_info={"name": "MIT", "identifier": "MIT"},
            servers=[{"url": "/", "description": "This server"}],
        )
        for operations in document["paths"].values():
            for operation in operations.values():
                if FASTAPIS_422 in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
                _offer_api_key(operation)
            patch_body = operations.get("patch", {}).get("requestBody", {}).get("content", {})
            if "application/json" in patch_body:
                patch_body["application/merge-patch+json"] = patch_body["application/json"]
        schemes = document["components"]["securitySchemes"]
        schemes[API_KEY_SCHEME] = {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key from `POST /api/v1/api-keys`, or a login's token.",
        }
        for name in (FASTAPIS_422, "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def _offer_api_key(operation: dict[str, Any]) -> None:
    """A key goes in the same header as a login; of OAuth2, tools would only offer the password."""
    if "security" in operation:
        operation["security"].append({API_KEY_SCHEME: []})
