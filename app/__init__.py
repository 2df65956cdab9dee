"""LangChain chains behind the protocols that clients speak.

The way of a request: protocol.parse -> guard -> endpoint of a ready server -> chain -> engine -> protocol.render.
The app never imports vLLM and never starts a process; the launcher tells it which servers are ready.
"""
