"""How answers stream: events on the wire, and the fast path that pushes them from an engine to a client."""
