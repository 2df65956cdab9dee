"""The benchmark's count of CPU time."""

import os
import threading
import time

from bench.cpu import cpu_seconds

BURNED = 0.05


def burn() -> None:
    """Take so much CPU time in this thread."""
    until = time.thread_time() + BURNED
    while time.thread_time() < until:
        pass


def test_the_time_of_a_thread_that_ended_counts() -> None:
    """A server whose threads come and go pays for them too."""
    before = cpu_seconds([os.getpid()])
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    assert cpu_seconds([os.getpid()]) - before >= BURNED
