"""What clients send and get about accounts."""

import re
from functools import partial
from typing import Annotated, Literal

import email_validator
from pydantic import (
    MISSING,
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from app.accounts.errors import ApiKeyNotFound, OAuthErrorCode
from app.accounts.models import (
    EMAIL_MAX_LENGTH,
    KEY_NAME_MAX_LENGTH,
    KEY_PREFIX_MAX_LENGTH,
    USERNAME_MAX_LENGTH,
    Scope,
)
from app.accounts.oauth import MAXIMUM_FORM_BYTES, UNSUPPORTED_GRANT_TYPE
from app.core.bounds import MAXIMUM_ID, NO_NUL, Id, integer, text
from app.core.responses import Envelope, Instant, Message, ReadModel
from app.core.schemas import (
    InputModel,
    InstantInput,
    canonical_id,
    each_once,
    not_blank,
)
from app.core.security import CHECKSUM_CHARACTERS, RANDOM_CHARACTERS

PASSWORD_MAX_LENGTH = 128
USERNAME_PATTERN = r"^[A-Za-z0-9._-]*$"
MAXIMUM_KEYS = 100
CREDENTIAL_MAX_LENGTH = KEY_PREFIX_MAX_LENGTH + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS
CREDENTIAL_PATTERN = r"^tf[uk]_[A-Za-z0-9]*$"

# The names that the library refuses, `.test` and `.local` among them, are what test suites and
# intranets use.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def _is_an_email_address(value: str) -> str:
    # The address is kept as given, so the normalised form is thrown away.
    try:
        email_validator.validate_email(value, check_deliverability=False)
    except email_validator.EmailNotValidError:
        raise PydanticCustomError("invalid_email", "This is not an email address") from None
    return value


def _has_characters_of_usernames(value: str) -> str:
    if not re.fullmatch(USERNAME_PATTERN, value):
        message = "Input may hold ASCII letters, digits, `.`, `_` and `-`"
        raise PydanticCustomError("invalid_username", message)
    return value


Username = Annotated[
    str,
    StringConstraints(min_length=3, max_length=USERNAME_MAX_LENGTH),
    AfterValidator(_has_characters_of_usernames),
    Field(
        description="3 to 80 ASCII letters, digits, `.`, `_` or `-`; unique whatever the case.",
        examples=["ada"],
        json_schema_extra={"pattern": USERNAME_PATTERN},
    ),
]
Email = Annotated[
    str,
    StringConstraints(max_length=EMAIL_MAX_LENGTH),
    AfterValidator(_is_an_email_address),
    Field(
        description="An email address, unique whatever the case; kept as given.",
        examples=["ada@example.com"],
        json_schema_extra={"format": "idn-email"},
    ),
]
Password = Annotated[
    SecretStr,
    Field(
        max_length=PASSWORD_MAX_LENGTH,
        description="Any characters, never trimmed or cut. The operator sets the minimum length.",
        examples=["correct horse battery staple"],
    ),
]


class UserCreate(InputModel):
    """A registration."""

    username: Username
    email: Email
    password: Password


class UserUpdate(InputModel):
    """A JSON Merge Patch (RFC 7396): what is absent stays as it is."""

    username: Username | MISSING = MISSING
    email: Email | MISSING = MISSING


CurrentPassword = Annotated[
    SecretStr,
    Field(
        max_length=PASSWORD_MAX_LENGTH,
        description="The password as it is now.",
        examples=["correct horse battery staple"],
    ),
]


class PasswordChange(InputModel):
    """A new password, and the proof that the old one is known."""

    current_password: CurrentPassword
    new_password: Password


class AccountClosing(InputModel):
    """The proof that it is the owner who closes the account."""

    password: CurrentPassword


class UserRead(ReadModel):
    """An account, as its owner sees it."""

    id: Id = Field(description="The account's id.", examples=[1])
    username: Annotated[str, text(USERNAME_MAX_LENGTH, pattern=USERNAME_PATTERN)] = Field(
        description="As it was given.", examples=["ada"]
    )
    email: Annotated[str, text(EMAIL_MAX_LENGTH)] = Field(
        description="As it was given.",
        examples=["ada@example.com"],
        json_schema_extra={"format": "idn-email"},
    )
    is_active: bool = Field(description="An inactive account cannot log in.", examples=[True])
    created_at: Instant = Field(description="When it was registered.")


class UserResponse(Envelope[UserRead]):
    """One account."""


class DoneResponse(Envelope[None]):
    """It is done, and there is nothing more to say."""


ApiKeyId = Annotated[
    int,
    # Whatever is not an id of a key is a key that is not there: 404, never 400.
    BeforeValidator(partial(canonical_id, otherwise=ApiKeyNotFound)),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAXIMUM_ID, "examples": [3]}),
    Field(description="The API key's id."),
]


class ApiKeyCreate(InputModel):
    """A new API key."""

    name: Annotated[
        str,
        StringConstraints(
            strip_whitespace=True, min_length=1, max_length=KEY_NAME_MAX_LENGTH, pattern=NO_NUL
        ),
        AfterValidator(not_blank),
    ] = Field(description="What people tell it by; trimmed.", examples=["nightly import"])
    scopes: Annotated[
        list[Scope],
        Field(min_length=1, max_length=len(Scope)),
        AfterValidator(each_once),
    ] = Field(
        description="What the key may do: some or all of what its maker may do.",
        examples=[["tasks:read", "tasks:write"]],
    )
    expires_at: InstantInput | None = Field(
        default=None,
        description="When it ends by itself; absent or null: never.",
        examples=["2099-12-31T23:59:59Z"],
    )


class ApiKeyRead(ReadModel):
    """An API key, without the key itself."""

    id: Id = Field(description="The API key's id.", examples=[3])
    name: Annotated[str, text(KEY_NAME_MAX_LENGTH)] = Field(
        description="What people tell it by.", examples=["nightly import"]
    )
    prefix: Annotated[str, text(KEY_PREFIX_MAX_LENGTH, pattern=CREDENTIAL_PATTERN)] = Field(
        description="How the key begins, to tell it by.", examples=["tfk_0123"]
    )
    scopes: list[Scope] = Field(
        description="What it may do.",
        examples=[["tasks:read", "tasks:write"]],
        json_schema_extra={"maxItems": len(Scope)},
    )
    created_at: Instant = Field(description="When it was made.")
    last_used_at: Instant | None = Field(
        description="When it was last used, to the minute; null if it never was."
    )
    expires_at: Instant | None = Field(description="When it ends by itself; null: never.")


class ApiKeyCreated(ApiKeyRead):
    """A new API key, with the key itself, which is shown this once."""

    key: Annotated[str, text(CREDENTIAL_MAX_LENGTH, pattern=CREDENTIAL_PATTERN)] = Field(
        repr=False,
        description="Send it as `Authorization: Bearer …`, and keep it: it is never shown again.",
        examples=["tfk_0123456789ABCDEFGHIJKLMNOPQRSTUV0pUFuY"],
    )


class ApiKeyResponse(Envelope[ApiKeyCreated]):
    """The new API key."""


class ApiKeyList(ReadModel):
    """The caller's API keys."""

    api_keys: list[ApiKeyRead] = Field(
        description="The newest first.", json_schema_extra={"maxItems": MAXIMUM_KEYS}
    )


class ApiKeyListResponse(Envelope[ApiKeyList]):
    """The caller's API keys."""


class ApiKeyDeletedResponse(Envelope[None]):
    """The API key is worth nothing any more."""


class TokenRevocation(BaseModel):
    """The form of a revocation (RFC 7009, section 2.1)."""

    # In a form, a field without a value is one that is missing.
    token: SecretStr = Field(
        description="The login token or the API key to end.",
        examples=["tfu_0123456789ABCDEFGHIJKLMNOPQRSTUV2kLrXa"],
        json_schema_extra={"minLength": 1, "maxLength": MAXIMUM_FORM_BYTES},
    )


def _is_the_grant_here(grant_type: str) -> str:
    if grant_type != "password":
        raise PydanticCustomError(UNSUPPORTED_GRANT_TYPE, "grant_type must be: password")
    return grant_type


class PasswordGrant(BaseModel):
    """The form of an OAuth2 password grant (RFC 6749, section 4.3.2)."""

    grant_type: Annotated[str, AfterValidator(_is_the_grant_here)] = Field(
        description="Always `password`.",
        examples=["password"],
        json_schema_extra={"const": "password"},
    )
    username: Annotated[str, text(MAXIMUM_FORM_BYTES, min_length=1)] = Field(
        description="A username or an email address.", examples=["ada"]
    )
    password: SecretStr = Field(
        description="The password of the account.",
        examples=["correct horse battery staple"],
        json_schema_extra={"minLength": 1, "maxLength": MAXIMUM_FORM_BYTES},
    )
    scope: Annotated[str, text(MAXIMUM_FORM_BYTES)] = Field(
        default="",
        description="The scopes to ask for, separated by spaces; all of them when absent.",
        examples=["account:read account:write tasks:read tasks:write"],
    )


class TokenResponse(BaseModel):
    """A login token (RFC 6749, section 5.1)."""

    access_token: Annotated[str, text(CREDENTIAL_MAX_LENGTH, pattern=CREDENTIAL_PATTERN)] = Field(
        repr=False,
        description="Send it as `Authorization: Bearer …`. It is shown this once.",
        examples=["tfu_0123456789ABCDEFGHIJKLMNOPQRSTUV2kLrXa"],
    )
    token_type: Literal["bearer"] = Field(description="Always `bearer`.")
    expires_in: Annotated[int, integer(1)] = Field(
        description="How long it lasts, in seconds.", examples=[86_400]
    )
    scope: Annotated[str, text(MAXIMUM_FORM_BYTES)] = Field(
        description="What it may do.",
        examples=["account:read account:write tasks:read tasks:write"],
    )


class OAuthErrorResponse(BaseModel):
    """An error of the token endpoint (RFC 6749, section 5.2)."""

    error: OAuthErrorCode = Field(
        description="What went wrong, for programs.", examples=["invalid_grant"]
    )
    error_description: Message = Field(
        description="What went wrong, for people.", examples=["Wrong username or password"]
    )
