"""A SLURM of two nodes on this machine, from Debian's packages ``slurm-wlm`` and ``munge``."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
# seconds: SLURM lets a job that is put back wait as long as a credential is good
AuthInfo=socket={folder}/munge.socket,cred_expire=15
# neither cgroups, nor a processor for each task alone: containers have none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES
# Lightning makes its port of it: another SLURM on this machine has another
FirstJobId={ports[3]}
"""


def missing() -> list[str]:
    """SLURM's commands that are not installed."""
    return [name for name in COMMANDS if not shutil.which(name, path=PATH)]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, and end it with all its jobs.

    Args:
        folder: Where its files go; a short path, for a socket's.

    Yields:
        The environment in which its commands find it.
    """
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(
        folder=folder, host=socket.gethostname(), user=getpass.getuser(),
        ports=[free_port() for _ in range(4)],
    ))  # fmt: skip
    munge = [f"--{name.replace('_', '-')}={folder}/munge.{name}" for name in ("socket",)]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    # the nodes' names are in no /etc/hosts, so where the first process is found is told
    env = os.environ | {
        "PATH": PATH,
        "SLURM_CONF": f"{folder}/slurm.conf",
        "MASTER_ADDR": "127.0.0.1",
    }
    daemons = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", node] for node in ("node1", "node2")),
    ]
    with ExitStack() as running:
        running.callback(subprocess.run, ["scancel", "--me"], env=env, check=False)
        for index, arguments in enumerate(daemons):
            log = running.enter_context((folder / f"{index}-{arguments[0]}.log").open("w"))
            daemon = subprocess.Popen(arguments, env=env, stdout=log, stderr=log)
            running.callback(daemon.wait)
            running.callback(daemon.terminate)
            if arguments[0] == "munged":
                wait_until(lambda: (folder / "munge.socket").exists(), 60)
        wait_until(lambda: states(env) == ["idle"] * 2, 120)
        yield env
        subprocess.run(["scancel", "--me"], env=env, check=False)
        wait_until(lambda: not jobs(env), 120)


def states(env: dict[str, str]) -> list[str]:
    """The nodes' states."""
    answer = subprocess.run(
        ["sinfo", "-N", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False
    )
    return answer.stdout.split()


def jobs(env: dict[str, str]) -> str:
    """The jobs that have not ended."""
    queue = subprocess.run(["squeue", "-h"], env=env, capture_output=True, text=True, check=False)
    return queue.stdout


def wait_until(come, seconds: float) -> None:  # type: ignore[no-untyped-def]
    """Wait until something is so.

    Raises:
        TimeoutError: If it is not after so many seconds.
    """
    end = time.monotonic() + seconds
    while not come():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)
