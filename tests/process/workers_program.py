"""A parent with two workers that do what they are told: ``python -m tests.process.workers_program BEHAVIOUR GRACE``.

``stay``: each says its number and process id, and waits. ``deaf``: it does not mind SIGTERM. ``break``: it ends by an
exception. ``refuse``: it cannot start; ``second``: only the second cannot.
"""

import os
import signal
import sys

from app.shutdown import CANNOT_START
from app.workers.prefork import Workers


def live(number: int) -> None:
    """Be one worker."""
    behaviour = sys.argv[1]
    if behaviour == "refuse" or (behaviour == "second" and number == 1):
        sys.exit(CANNOT_START)
    if behaviour == "break":
        raise RuntimeError("broken on purpose")
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, f"{number} {os.getpid()}\n".encode())  # whole, whatever the other writes
    while True:
        signal.pause()


if __name__ == "__main__":
    os.write(1, f"ended with {Workers(live, 2, grace=float(sys.argv[2])).run()}\n".encode())
