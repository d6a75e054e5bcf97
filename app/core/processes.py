"""What the system tells about other processes."""

import os


def is_alive(pid: int) -> bool:
    """Whether there is a process with this id, be it another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
