"""Engines: where the commands that fill a transfer table run.
Used by ``dood-pyro transfer-table`` and `dood_pyro.tasks.transfer.fill`.

`LocalEngine` runs them on this machine; `RayEngine` as tasks of a Ray cluster, each with its share of
cores and GPUs, where other nodes take up what a lost one leaves.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import queue
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dood_pyro.devices import cores
from dood_pyro.errors import UserError
from dood_pyro.extras import extra
from dood_pyro.run_folders.run import LOCKED

RETRIES = 10
"""How often Ray starts a task anew whose node or process was lost."""
LOCK_SECONDS = 90.0
"""How long a task waits for a training of its run to end that a lost process left behind."""
C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded here: between a fork and what the child runs, nothing should be."""
STOP_SECONDS = 60.0
"""How long a training may take to save its state when it is stopped."""


class Job(NamedTuple):
    """A ``dood-pyro`` command about one run."""

    words: tuple[str, ...]
    run: Path
    """Its folder, which ``words`` name as it is written here."""
    trains: bool
    going_on: tuple[str, ...] = ()
    """The command in place of ``words`` where the folder is there: a process that was lost began it."""


class Outcome(NamedTuple):
    """What a command left."""

    status: int
    out: str
    error: str
    """Last line of standard error; "" where it succeeded."""


class Engine(Protocol):
    """Where jobs run; used from several threads."""

    def slots(self) -> int:
        """How many jobs it can run at once, now."""

    def run(self, job: Job) -> Outcome:
        """Run a job and wait for it."""

    def stop(self) -> None:
        """End all jobs: a training saves its state, a measurement is lost."""


def call(words: Sequence[str], environment: Mapping[str, str], started: Any = None) -> Outcome:
    """Run a ``dood-pyro`` command in a process of its own, which ends with this one.

    Args:
        environment: variables beside this process's.
        started: called with the process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "dood_pyro.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=_end_with_parent if C_LIBRARY is not None else None,
    )
    if started is not None:
        started(process)
    try:
        out, err = process.communicate()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=STOP_SECONDS)
        process.kill()
        raise
    lines = [line for line in err.splitlines() if line.strip()]
    error = "" if process.returncode == 0 else (lines or [f"exit {process.returncode}"])[-1]
    return Outcome(process.returncode, out, error)


def _end_with_parent() -> None:
    """Have the process receive SIGTERM when its parent dies (prctl's PR_SET_PDEATHSIG)."""
    assert C_LIBRARY is not None
    C_LIBRARY.prctl(1, signal.SIGTERM)


class LocalEngine:
    """Processes of this machine.

    Args:
        jobs: how many at once.
        gpus: values of CUDA_VISIBLE_DEVICES for them to share; empty: all see all of the machine.
    """

    def __init__(self, jobs: int, gpus: Sequence[str] = ()) -> None:
        self.jobs = jobs
        self.places: queue.Queue[dict[str, str]] = queue.Queue()
        for index in range(jobs):
            gpu = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
            threads = {} if gpus else {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}
            self.places.put(gpu | threads)
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopped = False

    def slots(self) -> int:
        return self.jobs

    def run(self, job: Job) -> Outcome:
        place = self.places.get()
        try:
            return call(job.words, place, self._started)
        finally:
            self.places.put(place)

    def _started(self, process: subprocess.Popen[str]) -> None:
        with self.lock:
            self.processes = {each for each in self.processes if each.poll() is None} | {process}
            if self.stopped:
                process.terminate()

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.processes:
                if process.poll() is None:
                    process.terminate()


class RayEngine:
    """Tasks of a Ray cluster: that of the environment variable RAY_ADDRESS, or the one that runs on
    this machine, or else a new one of this machine alone.

    Nodes that see the folder of runs under the same name work in it. To others a run is sent, and comes
    back once it is trained.

    Args:
        runs: folder of the runs.
        cpus, gpus: cores and GPUs of a task; fractions share one.

    Raises:
        UserError: Ray is not installed, its cluster cannot be reached, or has no node for such a task.
    """

    def __init__(self, runs: Path, cpus: float = 1.0, gpus: float = 0.0) -> None:
        with extra("ray"):
            import ray
        self.ray: Any = ray
        # Ray reports its use to its makers unless told; nobody who fills a table has asked for that.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = str(error).strip().splitlines()[0]
            raise UserError(f"the Ray cluster cannot be reached: {why}") from None
        self.wanted = {"CPU": cpus, "GPU": gpus}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(
            all(node.get(kind, 0) >= amount for kind, amount in self.wanted.items())
            for node in nodes
        ):
            ray.shutdown()
            raise UserError(
                f"no node of the Ray cluster has {cpus:g} cores and {gpus:g} GPUs; "
                "ask for less (--task-cpus, --task-gpus)"
            )
        self.marker = runs.resolve() / f".seen-{uuid.uuid4().hex}"
        runs.mkdir(parents=True, exist_ok=True)
        self.marker.touch()
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, max_calls=1)(
            run_on_node
        )
        self.lock = threading.Lock()
        self.under_way: set[Any] = set()
        self.stopped = False
        self.sends = False
        """Whether a node has been met that does not see the folder of runs."""

    def slots(self) -> int:
        there = self.ray.cluster_resources()
        wanted = [(kind, amount) for kind, amount in self.wanted.items() if amount]
        return max(1, min(int(there.get(kind, 0) / amount + 1e-9) for kind, amount in wanted))

    def run(self, job: Job) -> Outcome:
        from ray.exceptions import RayError

        folder = job.run.resolve()
        begun, packed = folder.exists(), []
        if begun and self.sends:
            # In a list, so that it is fetched only where it is wanted.
            packed.append(self.ray.put(pack(folder)))
        threads = str(max(1, int(self.wanted["CPU"])))
        with self.lock:
            if self.stopped:
                return Outcome(1, "", "stopped")
            task = self.task.remote(moved(job, folder), begun, packed, self.marker, threads)
            self.under_way.add(task)
        try:
            found = self.ray.get(task)
        except RayError as error:
            return Outcome(1, "", str(error).strip().splitlines()[0])
        finally:
            with self.lock:
                self.under_way.discard(task)
        if found is None:
            self.sends = True
            return self.run(job)
        outcome, trained = found
        if trained is not None:
            unpack(trained, folder)
        return Outcome(*outcome)

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for task in self.under_way:
                self.ray.cancel(task)

    def close(self) -> None:
        """Leave the cluster."""
        self.marker.unlink(missing_ok=True)
        self.ray.shutdown()


def run_on_node(
    job: Job, begun: bool, packed: Sequence[Any], marker: Path, threads: str
) -> tuple[Outcome, bytes | None] | None:
    """Run a job on a node of a cluster; return its outcome and, where the node does not see the folder
    of runs, the trained run. None: it does not, and needs the run, which was not sent.

    Args:
        begun: whether there is a run already.
        packed: reference to it as it is, if it is sent.
        marker: a file in the folder of runs.
    """
    if begun and not packed and not marker.exists():
        return None
    with _here(job, packed, marker) as here:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            words = here.going_on if here.going_on and here.run.exists() else here.words
            outcome = call(words, {"OMP_NUM_THREADS": threads})
            # The training of a process whose node was lost may not yet have noticed.
            if LOCKED not in outcome.error or time.monotonic() > deadline:
                break
            time.sleep(2)
        back = here.run != job.run and job.trains and here.run.exists()
        return outcome, pack(here.run) if back else None


@contextlib.contextmanager
def _here(job: Job, packed: Sequence[Any], marker: Path) -> Iterator[Job]:
    """A job as this node can do it."""
    if marker.exists():
        yield job
        return
    import ray

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / job.run.name
        for reference in packed:
            unpack(ray.get(reference), folder)
        yield moved(job, folder)


def moved(job: Job, run: Path) -> Job:
    """The job about a run folder that lies elsewhere."""

    def renamed(words: Sequence[str]) -> tuple[str, ...]:
        return tuple(str(run) if word == str(job.run) else word for word in words)

    return Job(renamed(job.words), run, job.trains, renamed(job.going_on))


def pack(folder: Path) -> bytes:
    """A folder's files as one archive."""
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w") as archive:
        archive.add(folder, arcname=".")
    return box.getvalue()


def unpack(packed: bytes, folder: Path) -> None:
    """Put such an archive's files in place of ``folder``: whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(new, filter="data")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
