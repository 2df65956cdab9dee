"""Conversations by ``session_id``: a store in SQL, and chains that remember.

::

    chain.py        the Runnable around a chat chain: recall, answer, remember
    conversation.py pure: what of a conversation is new, what fits, what belongs together
    counting.py     tokens as the engine counts them
    summary.py      what is told of turns that no longer fit
    turntaking.py   one request of a session after the other, over all workers
    kept.py         what is kept: sessions, turns, how much of them
    deferred.py     the store, opened when it is first needed
    store.py        sessions and turns in SQL: SQLite or PostgreSQL
    tables.py       their tables
    session.py      which conversation a request belongs to
    routes.py       conversations over REST
"""
