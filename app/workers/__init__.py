"""Several processes that serve as one: forked from a parent that has imported everything, on one listening socket.

::

    prefork.py   the parent: forks workers, forks those again that died, ends them all
    worker.py    what a worker knows of itself, and its share of what the settings bound
    sockets.py   what is opened before there are workers, and left to each
    serving.py   one worker's life
"""
