"""The guard: a small process between the launcher and one child, so that nothing of the child outlives either.

Run as a script, ``python -I -S guard.py LIFELINE_FD PROGRAM [ARGUMENT...]``, leader of a session of its own
(``process.py`` starts it so). Standard library only, and little of that: it is up in 20 ms.

- The lifeline is a socket to the launcher. Its end means that the launcher is gone, however it went: everything
  below the guard is killed. ``T`` on it sends SIGTERM to the child, ``K`` kills everything. The guard writes the
  child's pid, one line, and another line as soon as the child has ended: what it left behind may take seconds to die.
- The guard is a child subreaper (prctl(2)): a grandchild whose parent dies becomes the guard's own child, even
  after setsid(), so "everything below the guard" has no way out.
- The child gets SIGKILL when the guard dies (PR_SET_PDEATHSIG; it watches the thread that forked, and the guard
  has only one).
- When the child ends, what is left below is killed, and the guard exits with the child's code (128 + n after
  signal n).
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERMINATE = b"T"
KILL = b"K"
KILLED = 128 + signal.SIGKILL
NOT_EXECUTABLE = 127
SWEEP_INTERVAL = 0.01  # seconds between two looks for processes that are still dying
RESOURCE_TRACKER = b"multiprocessing.resource_tracker"
TRACKER_GRACE = 2.0
"""Seconds for Python's resource trackers, which remove shared memory and semaphores once their users are dead.

vLLM leaves segments of up to 160 MB in /dev/shm when its tracker is killed with it; a tracker ends by itself."""

libc = ctypes.CDLL(None)


def main() -> int:
    """Run the child, obey the lifeline, leave nothing behind; the exit code is the child's."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(lifeline, False)  # noqa: FBT003 - it takes no keyword
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signals = catch_signals()
    child = fork_child(command)
    with contextlib.suppress(OSError):  # the launcher may be gone already; the lifeline tells below
        os.write(lifeline, b"%d\n" % child)
    code = watch(child, lifeline, signals)
    with contextlib.suppress(OSError):
        os.write(lifeline, b"ended\n")
    kill_descendants()
    return code


def catch_signals() -> int:
    """Turn signals into bytes on a pipe, whose reading end is returned."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    # Handlers and not SIG_IGN: exec resets a handler, and the child starts with the defaults.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, noted)
    return reading


def noted(_number: int, _frame: object) -> None:
    """Do nothing: the byte on the pipe says it."""


def fork_child(command: list[str]) -> int:
    """Start the command; its pid."""
    guard = os.getpid()
    child = os.fork()  # noqa: TID251 - this is the guard
    if child:
        return child
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard died before the line above could take effect
            os._exit(KILLED)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and exec would keep that
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(NOT_EXECUTABLE)


def watch(child: int, lifeline: int, signals: int) -> int:
    """Wait for the child's end, or for the order to end it; the exit code."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(signals, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            received = os.read(fd, 256)
            if fd == lifeline:
                if not received or KILL in received:
                    return KILLED
                os.kill(child, signal.SIGTERM)
            else:
                # Somebody else's SIGTERM to the guard is meant for the child.
                if any(number in received for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
                    os.kill(child, signal.SIGTERM)
                code = reap(child)
                if code is not None:
                    return code


def reap(child: int) -> int | None:
    """Collect everything that has ended; the child's exit code if it is among it."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
    return code if code is None or code >= 0 else 128 - code


def kill_descendants() -> None:
    """Kill until nothing is left. Waits for a process that the kernel cannot end yet: better seen than forgotten."""
    patience = time.monotonic() + TRACKER_GRACE
    while True:
        found = descendants(os.getpid())
        users = [pid for pid in found if not is_resource_tracker(pid)]
        if users:  # gigabytes take seconds to give back, and a tracker waits for the last of its users
            patience = time.monotonic() + TRACKER_GRACE
        for pid in users if time.monotonic() < patience else found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # no child, living or dead: as a subreaper, that means no descendant
            return
        time.sleep(SWEEP_INTERVAL)


def is_resource_tracker(pid: int) -> bool:
    """Whether it is the tracker of a Python program that uses multiprocessing."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as command:  # noqa: PTH123 - as below
        return RESOURCE_TRACKER in command.read()
    return False


def descendants(root: int) -> list[int]:
    """Every process below ``root``, from one reading of /proc (proc_pid_stat(5): the parent is the fourth field)."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the guard's time to start
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stat:  # noqa: PTH123 - likewise
                parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = list(children.get(root, ()))
    for pid in found:  # grows as it goes
        found += children.get(pid, ())
    return found


if __name__ == "__main__":
    sys.exit(main())
