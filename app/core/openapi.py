"""The OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.core.openapi_passes import refine

DESCRIPTION = """\
Create, find and change people's tasks.

1. Register: `POST /api/v1/users`.
2. Log in: press **Authorize** and give the username and the password, or call
   `POST /api/v1/auth/token` and send the token as `Authorization: Bearer …`.
3. Create a task: `POST /api/v1/tasks`.

Every success is `{"status": "success", "message": …, "data": …}`; every error has a stable `code`,
and names the fields to blame in `errors`. Unknown fields and parameters are refused by name, and so
are, but for OAuth 2's calls, `If-Match` and `If-None-Match` on a write that does not know them.

`/api/v1` never breaks: fields, parameters and operations may be added, so ignore what you do not
know. What a later version will not have is marked as deprecated here and goes on working; its
answers carry `Deprecation` (RFC 9745), and `Sunset` (RFC 8594) once it has an end.
"""
TAGS = [
    {
        "name": "accounts",
        "description": "Registration, logins, API keys, the own account.",
    },
    {"name": "health", "description": "Probes for whoever runs the service."},
    {"name": "tasks", "description": "Tasks, only ever the caller's own."},
]
CONTACT = {
    "name": "The taskflow maintainers",
    "url": "https://taskflow.example",
    "email": "maintainers@taskflow.example",
}
LICENSE = {"name": "MIT", "url": "https://opensource.org/license/mit"}
SERVERS: list[dict[str, str | Any]] = [
    {
        "url": "/",
        "description": "The server that this document comes from: production, staging or local",
        "x-internal": False,
    }
]


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document: what FastAPI makes of the routes, completed by what holds for all of them."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            contact=CONTACT,
            license_info=LICENSE,
            servers=SERVERS,
        )
        refine(document, app)
        app.openapi_schema = document
    return app.openapi_schema
