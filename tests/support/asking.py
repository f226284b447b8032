"""What ``python`` is for the commands of a `Terminal`: it asks for a fork, and ends as that ends.

It is a command of its own, which imports as little as possible. It passes on its words, folder,
environment and open files, then the signals that it receives.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def ask(
    place: str, words: list[str], folder: str, files: dict[int, int], env: dict[str, str]
) -> tuple[socket.socket, int]:
    """Ask for a fork of the process that has all packages.

    Args:
        place: The socket at which it listens.
        words: What the fork runs: ``clipshift …`` or ``python …``.
        folder: Where.
        files: Its open files, by the numbers that they have there.
        env: All its environment variables.

    Returns:
        A socket that sends its exit code as a line, negative if a signal ended it, and its process
        number. Closing the socket earlier kills the fork and all that it started.
    """
    link = socket.socket(socket.AF_UNIX)
    link.connect(place)
    socket.send_fds(link, [b"?"], list(files.values()))
    link.sendall(json.dumps([words, folder, list(files), env]).encode() + b"\n")
    return link, int(read_line(link))


def read_line(link: socket.socket) -> bytes:
    """Read the next line; it is empty where the other end is closed."""
    line = b""
    while not line.endswith(b"\n") and (more := link.recv(1)):
        line += more
    return line


def kill_all(process: int) -> None:
    """Kill a process with all that it started; it may have no session of its own yet."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(process, signal.SIGKILL)


def is_open(number: int) -> bool:
    """Return whether a file is still open: the one by which they were listed is not."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def main() -> int:
    """Ask for what the command line says; return its exit code."""
    place = os.path.join(os.path.dirname(sys.argv[0]), "socket")
    files = {number: number for number in map(int, os.listdir("/proc/self/fd")) if is_open(number)}
    link, process = ask(place, ["python", *sys.argv[1:]], os.getcwd(), files, dict(os.environ))
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(process, number))
    return int(read_line(link) or -signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
