"""A real Slurm for tests: two nodes on this machine, n1 and n2, with all of its files in one folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "munged")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthInfo=socket={munge},cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
ReturnToService=2
MpiDefault=none
KillWait=20
SlurmdTimeout=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=urgent Nodes=n1,n2 PriorityTier=9
"""


def why_not():
    """Why there can be no Slurm here; empty if there can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no Slurm: {missing[0]} is missing (apt install slurmctld slurmd slurm-client munge)"
    return "" if os.geteuid() == 0 else "no Slurm: its daemons have to be started as root"


class Cluster:
    """Slurm's daemons, by the process ids that were started here.

    Args:
        folder: of all files, to be made.
    """

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self):
        """Start the daemons and wait until both nodes are idle."""
        for name in ("state", "spool-n1", "spool-n2", "munge"):
            (self.folder / name).mkdir(parents=True)
        munge = self._start_munge()
        ports = [free_port() for _ in range(3)]
        names = dict(zip(("port", "first", "second"), ports, strict=True))
        text = _CONFIGURATION.format(host=socket.gethostname(), munge=munge, folder=self.folder, **names)
        (self.folder / "slurm.conf").write_text(text)
        self._run("slurmctld", "slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait_for(lambda: self.ask("sinfo", "-hN", "-o", "%N %t").count("idle") >= 2)

    def _start_munge(self):
        """Authentication, whose socket has to be where no other user can put one."""
        place, key = Path("/run/munge"), self.folder / "munge" / "key"
        place.mkdir(exist_ok=True)
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (place, key.parent, key):
            shutil.chown(path, "munge", "munge")
        key.parent.chmod(0o700)
        for each in (self.folder, *self.folder.parents):  # munged, which reads its key, runs as a user of its own
            if each == Path(tempfile.gettempdir()):
                break
            each.chmod(each.stat().st_mode | 0o011)
        munge = place / f"socket.{os.getpid()}"
        paths = {f"--{name}-file={key.parent / name}" for name in ("pid", "log", "seed")}
        self._run(
            "munged", "munged", "-F", f"--socket={munge}", f"--key-file={key}", *paths, user="munge", group="munge"
        )
        self.wait_for(munge.exists)
        return munge

    def start_node(self, node, *before):
        """Start a node's daemon, in a process that `before` makes."""
        self._run(node, *before, "slurmd", "-D", "-N", node)

    def kill(self, name):
        """SIGKILL to a daemon."""
        self.processes[name].kill()
        self.processes[name].wait()

    def stop(self):
        """Cancel all jobs and end the daemons."""
        with contextlib.suppress(Exception):
            self.ask("scancel", "--me")
            self.wait_for(lambda: not self.ask("squeue", "--me", "-h"), seconds=40)
        for process in reversed(self.processes.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()

    def ask(self, *command):
        """What one of Slurm's commands prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def jobs(self, form="%i %T"):
        """A line per job that is not over."""
        return self.ask("squeue", "--me", "-hr", "-o", form).splitlines()

    def wait_for(self, condition, seconds=60):
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self):
        """The end of what the daemons printed."""
        return (self.folder / "daemons.txt").read_text(errors="replace")[-2000:]

    def _run(self, name, *command, **more):
        with (self.folder / "daemons.txt").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, start_new_session=True, **more
            )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
