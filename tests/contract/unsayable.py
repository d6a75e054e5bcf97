"""Hooks of Schemathesis: which valid requests may be refused, by rules that no schema can say."""

import re
from typing import Any

import schemathesis
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Where an operation of a batch has the fields of a task, and the places in lists.
PLACES = re.compile(r"\[\d+\]|(?<=^body\.)operations\[\d+\]\.(task|changes)\.")
# By the fields that the answer blames.
RULES = {
    "body.current_password": "The right one.",
    "body.due_on": "Not together with due_at.",
    "body.email": "There are domains, and addresses in quotes, that no mail can go to.",
    "body.expires_at": "In the future.",
    "body.metadata": "Bounded in bytes and levels, and without NUL.",
    "body.name": "Not blank, when trimmed.",
    "body.new_password": "As long as the operator wants it.",
    "body.operations.id": "Written as an integer: 7, and not 7.0.",
    "body.operations.version": "Written as an integer: 7, and not 7.0.",
    "body.password": "The right one, or as long as the operator wants it.",
    "body.scopes": "Each once.",
    "body.tags": "Each once and not blank, when trimmed.",
    "body.title": "Not blank, when trimmed.",
    "header.if-match": "Entity tags; one bound is made without heed to the pattern.",
    "header.if-none-match": "The same.",
    "query.cursor": "Signed by the service, and bound to the caller and the filters.",
    "query.q": "With a word that is not excluded.",
    "query.tag": "Not blank, when trimmed.",
    "query.time_zone": "One of the IANA's names.",
}


@schemathesis.check
def valid_requests_are_refused_by_known_rules_alone(
    ctx: CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    """Schemathesis' own check, but that a 400 may blame fields with such a rule, and only them."""
    if response.status_code == 400:
        answer = response.json()
        if answer.get("error_description") == "A parameter is given more than once":
            # RFC 6749, section 3.2, and no schema of a form can say it of names that it ignores.
            return None
        blamed = {PLACES.sub("", error["field"]) for error in answer.get("errors", [])}
        if blamed and blamed <= RULES.keys():
            return None
    return positive_data_acceptance(ctx, response, case)
