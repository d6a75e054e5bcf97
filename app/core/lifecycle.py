"""What a worker tells its connections and its readiness probe of its own end.

Lives in the state of the lifespan (ASGI), which the server shows to each connection and request.
"""

from collections.abc import Mapping
from typing import Any

STATE_KEY = "taskflow.lifecycle"
# Set in the scope of a request that is cancelled because its client has gone.
CLIENT_HAS_GONE = "taskflow.client_has_gone"


class Lifecycle:
    """Whether new requests are wanted, and whether the process is about to stop listening."""

    def __init__(self) -> None:
        self.is_ready = True
        self.is_ending = False


def lifecycle_of(state: Mapping[str, Any]) -> Lifecycle:
    """The lifecycle in the state of a lifespan; one that does not end where none was begun."""
    lifecycle: Lifecycle | None = state.get(STATE_KEY)
    return lifecycle or Lifecycle()
