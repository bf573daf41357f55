"""A Slurm of one controller and one node on this machine, for as long as a test runs: `with cluster(folder)`.

Everything lies in one folder, on free ports of the loopback address, with a munge key and socket of its own.
So it needs no root, leaves an installed Slurm alone, and two test runs can have one each.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from getpass import getuser
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
CONFIGURATION = """
ClusterName=book
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# The node counts as large as its line says: what is tested are the requests, whatever this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
STOP_WITHIN = 20  # seconds


def missing_programs():
    """What is needed of Slurm and munge, and not installed."""
    return [name for name in PROGRAMS if _program(name) is None]


@contextmanager
def cluster(folder, cpus=4, memory=64_000):
    """A running Slurm with an idle node of so many CPUs and MB; the environment for sbatch and its like.

    folder: empty, with a short path (a socket's has 107 bytes at most), not writable for other users.
    """
    host = socket.gethostname().split(".")[0]
    for part in ("state", "spool"):
        (folder / part).mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    controller, node = _free_ports()
    names = {"host": host, "user": getuser(), "folder": folder, "controller": controller, "node": node}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(cpus=cpus, memory=memory, **names))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    environment["PATH"] = os.pathsep.join([str(_own_srun(folder)), environment["PATH"]])

    with ExitStack() as stack:
        stack.callback(_kill_what_is_left, environment)
        # --force: the folder is closed to other users, about which munged would complain
        munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        munge += [f"--{name}-file={folder}/munge.{name}" for name in ("log", "pid", "seed")]
        stack.enter_context(_running("munged", munge, folder, environment))
        _wait_until((folder / "munge.socket").exists, folder)
        stack.enter_context(_running("slurmctld", ["-D"], folder, environment))
        stack.enter_context(_running("slurmd", ["-D", "-N", host], folder, environment))
        stack.callback(_cancel_jobs, environment)
        _wait_until(lambda: ask(environment, "sinfo", "--noheader", "--format=%T") == "idle", folder)
        yield environment


def ask(environment, *command):
    """What a client command prints, without the spaces around; empty as long as the controller is silent."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def _own_srun(folder):
    """A folder with an srun that knows the configuration: in a job, the plugin takes SLURM_CONF away."""
    program = folder / "bin" / "srun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    program.chmod(0o755)
    return program.parent


@contextmanager
def _running(name, options, folder, environment):
    """A daemon in the foreground, as a child that ends with the block, however the block ends."""
    with (folder / f"{name}.out").open("w") as out:
        command = [str(_program(name)), *options]
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cancel_jobs(environment):
    """A job's processes are no children of slurmd: they would outlive it."""
    ask(environment, "scancel", "--full", f"--user={getuser()}")
    deadline = time.monotonic() + STOP_WITHIN
    while ask(environment, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)


def _kill_what_is_left(environment):
    """Ends processes with this cluster's configuration in their environment that did not stop."""
    mark = f"SLURM_CONF={environment['SLURM_CONF']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


def _wait_until(ready, folder, seconds=60):
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            logs = [path for end in ("*.out", "*.log") for path in sorted(folder.glob(end))]
            log = "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in logs)
            raise TimeoutError(f"Slurm has not come up within {seconds} s:\n{log}")
        time.sleep(0.1)


def _free_ports():
    """Two free ports; they are held together, so that they differ."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _program(name):
    """An ordinary user's PATH may lack the folders of the daemons."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
