"""The way to the engines: which server is ready, and how a request gets there.

::

    table.py       the app's own table of the servers, pushed by the launcher
    endpoint.py    the way of a request to its engine, looked up when it is made
    engine.py      the short way, for streams that are pushed through
    connection.py  HTTP/1.1 to an engine, with nothing between the socket and whoever reads
    line.py        requests that go through no chain: embeddings, images, raw
    migration.py   two backends for one model while it moves from one to the other
    upstream.py    what clients and SDKs raise, as errors of this service
"""
