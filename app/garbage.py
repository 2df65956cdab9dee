"""Python's garbage collector, as a worker that has all its modules needs it."""

import gc

YOUNG = 10_000
"""Objects that are made before it looks for cycles among them; Python's default is 700.

A stream on LangChain's way makes more than that in every moment, none of which is garbage in a cycle: looking took a
third of the general path's time at 200 streams.
"""


def settle() -> None:
    """Let what is there now stay, uncollected, and look less often at what comes.

    To look through everything that was imported again and again costs more than most requests; and where processes
    share it, a collector that looks at it writes to it.
    """
    gc.collect()
    gc.enable()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    gc.freeze()
