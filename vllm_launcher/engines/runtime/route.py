"""Balance the requests of one model over its servers. Runs in the environment of vllm-router.

``python route.py PORT POLICY URL...``; listens on loopback, and is told of further servers over HTTP. The vLLM
project's router does the work; its own command is not used because it opens a second port for metrics, and imports a
web framework for a mode that is not used here.
"""

# ruff: noqa: INP001 - a script, no part of a package

import sys

from vllm_router.router import Router
from vllm_router.router_args import RouterArgs

DAY = 24 * 60 * 60


def main() -> None:
    """Route until ended."""
    port, policy, *servers = sys.argv[1:]
    arguments = RouterArgs(
        worker_urls=servers
        if len(servers) > 1
        else servers * 2,  # power_of_two refuses to begin with one; twice is one
        host="127.0.0.1",
        port=int(port),
        policy=policy,
        log_level="warn",  # at info it logs every request
        worker_startup_timeout_secs=5,  # they are ready when they are named
        worker_startup_check_interval=1,
        health_check_interval_secs=2,
        request_timeout_secs=DAY,  # of the whole answer: how long it may take is decided in front of it
        disable_circuit_breaker=True,  # who is out is decided by the launcher
    )
    Router.from_args(arguments).start()


if __name__ == "__main__":
    main()
