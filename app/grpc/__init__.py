"""gRPC in the app's own process and event loop: server, calls, errors. Its services are in app/protocols/."""
