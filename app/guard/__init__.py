"""Who may come in, with how much, and who waits: before every protocol, and again before every engine.

::

    guarding.py           puts it together from the settings
    client_connection.py  a client's connection, bounded before there is a request
    asgi.py               the gate in front of HTTP; gRPC's is in app/grpc/calls.py
    gate.py               keys, limits, and what is noted of every request
    key_limits.py         what a key may use, over all workers
    bodies.py             size, time and shape of a body
    passage.py            the guard at the engines' side
    admission.py          the fair line before each engine
    audit.py              the audit log
    allow_list.py         which addresses of the world the app may fetch
    certificate.py        a certificate and its key, read and tried
    call.py, owner.py, wires.py  a request, who asks, and by which protocol
"""
