"""How fast a client has to send a request, and to take in an answer."""

# A client has this long to send the head of a request, and may be slow for as long with its body or
# in reading the answer.
SLOW_AFTER_SECONDS = 15
# Whoever sends or reads fewer bytes a second is slow.
SLOW_BELOW_RATE = 4096
CHECK_EVERY_SECONDS = 5


class Pace:
    """Since when a client has been slow. Times are in seconds, on one clock.

    `moved` is how many bytes it has sent or taken in, counted from anywhere.
    """

    def __init__(self, now: float, moved: int = 0) -> None:
        self._since = now
        self._moved = moved

    def forgive(self, now: float) -> None:
        """Let what was slow until now count no more."""
        self._since = now

    def check(self, now: float, moved: int) -> None:
        """Note how far it has come. To be called every `CHECK_EVERY_SECONDS`."""
        # What came early is no credit for the time after it.
        if moved - self._moved >= SLOW_BELOW_RATE * CHECK_EVERY_SECONDS:
            self._since = now
        self._moved = moved

    def is_slow(self, now: float) -> bool:
        """Whether it has been for longer than it may."""
        return now - self._since > SLOW_AFTER_SECONDS
