"""What a plan says of several servers of one model. Pure."""

from dataclasses import replace

from vllm_launcher.planning.planned import Choice, PlannedServer
from vllm_launcher.registry.entries import ModelSpec

BALANCES = {
    "load": "a request goes to the server with the least to do",
    "prefix": "a request goes to the server that has most of its prompt in its cache",
    "session": "a session's requests go to the same server",
}


def numbered(server: PlannedServer, number: int, count: int, spec: ModelSpec) -> PlannedServer:
    """One of several, or one that was to be several and is not."""
    if spec.replicas == 1:
        return server
    why = "set by the entry" if count == spec.replicas else f"of {spec.replicas}: there is no room for more"
    chosen = Choice("replicas", str(count), why)
    balance = [Choice("balance", spec.balance, BALANCES[spec.balance])] if count > 1 else []
    return replace(server, replica=number, reasons=(*server.reasons, chosen, *balance))
