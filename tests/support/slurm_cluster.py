"""A real Slurm on this machine for tests: one controller and two loopback nodes, all of it in one folder.

Debian's slurmctld, slurmd, slurm-client and munge; no accounting. `SLURM_CONF` in the yielded environment leads there.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

# The nodes claim more than this machine has (config_overrides), so that the shipped profile's requests fit.
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SlurmctldTimeout=30
SlurmdTimeout=10
ReturnToService=2
JobRequeue=1
MinJobAge=600
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """The programs of a Slurm that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """A running Slurm: `environment` for its clients, and a way to lose a node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = {"PATH": f"{folder}/bin:{_path()}", "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment = {**os.environ, **places}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else f"failed: {done.stderr}"

    def nodes(self) -> dict[str, str]:
        """Every node's state."""
        lines = (line.split() for line in self.ask("sinfo", "--noheader", "-N", "-o", "%N %T").splitlines())
        return dict(line for line in lines if len(line) == 2)

    def jobs(self) -> list[list[str]]:
        """Number, state, node and restarts of every job that Slurm remembers."""
        shown = self.ask("squeue", "--states=all", "--noheader", "-O", "JobID:12,State:14,NodeList:10,RestartCnt:6")
        return [line.split() for line in shown.splitlines()]

    def lose_node(self, name: str) -> None:
        """Kill everything that runs on a node at once: its daemon, its job steps and what they have started."""
        for process in self._processes_of(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _processes_of(self, name: str) -> list[int]:
        ours = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        marks = {f"SLURMD_NODENAME={name}".encode(), f"LIM_TEST_NODE={name}".encode()}
        found = {int(path.name): _environ(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        return [process for process, variables in found.items() if ours in variables and marks & variables]

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        self._configure()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        here = [f"--{what}={self.folder}/munge.{what}" for what in ("socket", "log-file", "pid-file", "seed-file")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *here)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        self._wait_until_idle()

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self._start("slurmd", "-D", "-N", name, LIM_TEST_NODE=name)

    def _configure(self) -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        text = CONFIGURATION.format(host=socket.gethostname(), folder=self.folder, ports=ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (self.folder / "state").mkdir()
        # Snakemake clears SLURM_CONF away inside a job, where srun would look for the system's configuration.
        (self.folder / "bin").mkdir()
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def _start(self, program: str, *arguments: str, **variables: str) -> None:
        with open(self.folder / f"{program}.out", "ab") as out:
            environment = {**self.environment, **variables}
            self._daemons.append(subprocess.Popen([program, *arguments], env=environment, stdout=out, stderr=out))

    def _wait_until_idle(self) -> None:
        for _ in range(120):
            if self.nodes() == {"n1": "idle", "n2": "idle"}:
                return
            time.sleep(0.5)
        raise RuntimeError(f"Slurm did not come up: {self.nodes()}, see {self.folder}")

    def stop(self) -> None:
        """End every job and daemon."""
        self.ask("scancel", "--me")
        for node in ("n1", "n2"):
            self.lose_node(node)
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()


def _environ(process: Path) -> set[bytes]:
    try:
        return set((process / "environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A Slurm that runs as long as the block."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
