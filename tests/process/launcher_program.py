"""A launcher to send signals to: ``launcher_program.py RUN_DIRECTORY CASE MARK``, over fake engines.

Its states are read at its control socket. The cases say where it stays: fetching, starting, warming, ready,
back-off. It is wired as ``up`` is.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from tests.process.fleet import FAKE_ENGINE, IMPATIENT, engine_launch
from tests.processes import MARK
from vllm_launcher.control import ControlServer
from vllm_launcher.errors import LauncherError
from vllm_launcher.keeping.child import SupervisedChild
from vllm_launcher.keeping.health import HttpHealth
from vllm_launcher.keeping.launcher import Build, Launcher, ServerSpec
from vllm_launcher.keeping.restart import RestartPolicy
from vllm_launcher.keeping.service import serve, stop_signals
from vllm_launcher.processes.process import Launch, run
from vllm_launcher.processes.run_directory import RunDirectory
from vllm_launcher.progress import Report

MODES = {
    "fetching": "",
    "starting": "never-ready,loses-sigterm,worker,setsid-worker",
    "warming": "never-generates,worker,setsid-worker",
    "ready": "worker,setsid-worker",
    "draining": "worker,setsid-worker,ignores-sigterm",
    "back-off": "exits,worker",
}


async def main(directory: RunDirectory, case: str, mark: str) -> None:
    """Serve one model and a stand-in for the app."""
    stop = stop_signals()
    env = {"PATH": os.defpath, MARK: mark}

    async def prepare(model: str, report: Report) -> Build:
        del report
        if case == "fetching":
            sleeper = Launch(("sh", "-c", "sleep 600 & setsid sleep 600 & wait"), env)
            await run(sleeper, log=directory.log("prepare"))
        return lambda port: engine_launch(model, port, MODES[case], **{MARK: mark})

    policy = RestartPolicy(first_delay=600.0, longest_delay=600.0)
    health = HttpHealth(patience=IMPATIENT, poll=0.02)
    launcher = Launcher(
        [ServerSpec("fake", "fake")], prepare=prepare, spawn=directory.spawn, health=health, policy=policy
    )
    app = Launch((sys.executable, "-I", "-S", str(FAKE_ENGINE), "--port", "0", "--served-model-name", "app"), env)
    await serve(
        launcher,
        run=directory,
        control=ControlServer(launcher, directory.control_socket),
        app=SupervisedChild("app", app, spawn=directory.spawn),
        stop=stop,
    )


if __name__ == "__main__":
    try:
        with contextlib.closing(RunDirectory.open(Path(sys.argv[1]))) as opened:
            asyncio.run(main(opened, sys.argv[2], sys.argv[3]))
    except LauncherError as error:
        sys.exit(str(error))
