"""Sweeps on a Dask cluster: the same results as locally, nothing lost with a worker, and clear errors.

Workers are processes of their own, as on a cluster, on this machine's loopback address.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gempim import sweep_dask
from gempim.quantity import DataError
from gempim.rundir import is_complete
from gempim.sweep import Sweep, load_sweep, run_sweep

pytest.importorskip("distributed", reason="NOT RUN: Dask is not installed: pip install '.[test]'")

SWEEP = """
[sweep]
baseline = "neoverse-n1"
[base.model]
name = "smollm2-135m"
quant = "q4_0"
[base.workload]
prompt = 0
tokens = 1
threads = 8
[axes]
"experiment.system" = ["neoverse-n1", "sail"]
"model.quant" = ["q2_k", "q4_0", "q8_0"]
"workload.context" = [16, 64]
"""


def _plan(folder: Path, text: str = SWEEP) -> Sweep:
    file = folder / "s.toml"
    file.write_text(text)
    return load_sweep(file)


def _contents(root: Path) -> dict[str, str]:
    """Every file of every run, less what is the machine's and the moment's: wall times, host, command."""
    out = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        text = path.read_text()
        if path.name == "manifest.json":
            manifest = json.loads(text)
            for key in ("wall_seconds", "host", "created", "command"):
                del manifest[key]
            text = json.dumps(manifest)
        out[str(path.relative_to(root))] = re.sub(r"^hostSeconds .*$", "", text, flags=re.MULTILINE)
    return out


class _Cluster:
    """A scheduler and workers, all processes of ours."""

    def __init__(self, scratch: Path, **env: str) -> None:
        self.scratch = scratch
        self.processes: list[subprocess.Popen[bytes]] = []
        scratch.mkdir(parents=True, exist_ok=True)
        at = scratch / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(at), **env)
        self.address = str(_wait_for(lambda: at.is_file() and at.read_text() and json.loads(at.read_text()))["address"])

    def _start(self, what: str, *args: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.scratch / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *args],
                stdout=log, stderr=log, cwd=self.scratch, env={**os.environ, **env},
            )  # fmt: skip
        self.processes.append(process)
        return process

    def add_worker(self, preload: str = "", **env: str) -> subprocess.Popen[bytes]:
        """A worker of one thread. `preload`: Python that it runs before it takes work (twice)."""
        args = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self.scratch)]
        if preload:
            args += ["--preload", preload]
        return self._start("worker", self.address, *args, **env)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _wait_for(check: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing within {seconds} s")


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """A wait without end is what several of these tests are about: it ends the process, with every thread's stack."""
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[_Cluster]:
    made = _Cluster(tmp_path / "cluster")
    yield made
    made.stop()


def _gempim(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "gempim.cli", *args],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# Leaves a file half written in its first run, and does not go on.
STUCK = """
import time
from pathlib import Path
from gempim import sweep_dask
def stuck(experiment, root, *, command):
    half = root / "half"
    half.mkdir()
    (half / "stats.txt").write_text("half")
    Path("stuck").touch()
    time.sleep(1000)
sweep_dask.simulate = stuck
"""


def test_a_killed_worker_loses_nothing_and_the_results_are_those_of_a_local_sweep(
    tmp_path: Path, cluster: _Cluster
) -> None:
    """One of two workers is killed in the middle of a run: table and run directories are the local sweep's."""
    (tmp_path / "s.toml").write_text(SWEEP)
    stuck = cluster.add_worker(STUCK)
    local = _gempim(tmp_path, "sweep", "s.toml", "-o", "csv", "--runs", "local", "-j", "1")
    expected, said = local.communicate()
    assert local.returncode == 0, said
    remote = _gempim(tmp_path, "sweep", "s.toml", "-o", "csv", "--runs", "remote", "--dask", cluster.address)
    _wait_for((cluster.scratch / "stuck").exists)
    cluster.add_worker()
    # The other worker has done what it had: only what the first one holds is missing.
    _wait_for(lambda: len(list((tmp_path / "remote").glob("[!.]*"))) >= 6)
    stuck.send_signal(signal.SIGKILL)
    table, said = remote.communicate(timeout=60)
    assert remote.returncode == 0, said
    assert table == expected
    runs = _contents(tmp_path / "remote")
    assert len({Path(name).parts[0] for name in runs}) == 12
    assert runs == _contents(tmp_path / "local")
    assert all(is_complete(path) for path in (tmp_path / "remote").iterdir())


def test_a_run_that_kills_its_workers_ends_the_sweep(tmp_path: Path) -> None:
    """Out of memory, for example: after so many deaths as Dask allows, an error that names the run."""
    cluster = _Cluster(tmp_path / "cluster", DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    try:
        cluster.add_worker(
            "import os\nfrom gempim import sweep_dask\nsweep_dask.simulate = lambda *a, **k: os._exit(9)"
        )
        with pytest.raises(DataError, match=r"(sail|neoverse-n1)-smollm2-135m-.*workers died"):
            run_sweep(_plan(tmp_path), tmp_path / "runs", dask=cluster.address)
    finally:
        cluster.stop()
    assert list((tmp_path / "runs").iterdir()) == []


# From the second run on, an error; and in the second sweep a bug, whose exception no other process can read.
FAILS = """
from gempim import sweep_dask
from gempim.quantity import DataError
from gempim.simulate import simulate
class Unreadable(Exception):
    def __reduce__(self):
        return int, ("no number",)
def fails(experiment, root, *, command):
    done = list(root.parent.parent.glob("[!.]*"))
    if "bug" in root.parts[-3]:
        raise Unreadable("division by cucumber")
    if done:
        raise DataError("no such table")
    return simulate(experiment, root, command=command)
sweep_dask.simulate = fails
"""


def test_an_error_of_a_run_is_the_sweeps(tmp_path: Path, cluster: _Cluster) -> None:
    """What a local sweep would stop with, this one does; its folder for unfinished runs is gone, finished runs stay."""
    cluster.add_worker(FAILS)
    plan = _plan(tmp_path)
    with pytest.raises(DataError, match=r"^no such table$"):
        run_sweep(plan, tmp_path / "runs", dask=cluster.address)
    # The worker may have begun another one by then, which it ends.
    for _ in range(600):
        left = list((tmp_path / "runs").iterdir())
        if all(is_complete(path) for path in left):
            break
        time.sleep(0.1)
    assert 1 <= len(left) < 12
    assert all(is_complete(path) for path in left)
    with pytest.raises(RuntimeError, match=r"(?s)smollm2-135m-.*Traceback.*division by cucumber"):
        run_sweep(plan, tmp_path / "runs-bug", dask=cluster.address)


def test_another_gempim_on_a_worker_is_refused(
    tmp_path: Path, cluster: _Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other code gives other numbers, or another name to the same run: before anything runs, naming the worker."""
    worker = cluster.add_worker()
    mine = sweep_dask.identity()
    for key in mine:
        monkeypatch.setattr(sweep_dask, "identity", lambda key=key: {**mine, key: "9.9"})
        with pytest.raises(DataError, match=rf"worker tcp://127.0.0.1:\d+ has {key} .*the client 9.9"):
            run_sweep(_plan(tmp_path), tmp_path / "runs", dask=cluster.address)
    assert list((tmp_path / "runs").iterdir()) == []
    monkeypatch.undo()
    worker.kill()
    worker.wait()
    # A worker that has a package of that name, and not this code in it.
    other = tmp_path / "other" / "gempim"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("__version__ = '0.0.1'\n")
    cluster.add_worker(PYTHONPATH=str(other.parent))
    with pytest.raises(DataError, match="cannot run this version of gempim"):
        run_sweep(_plan(tmp_path), tmp_path / "runs", dask=cluster.address)
    # And one that comes when the others have been checked.
    with pytest.raises(DataError, match=r"worker on .* has gempim .* the client 9\.9"):
        sweep_dask._simulate_aside(_plan(tmp_path).points[0], "name", tmp_path, {**mine, "gempim": "9.9"}, [])


def test_a_worker_that_does_not_share_the_folder_is_refused(
    tmp_path: Path, cluster: _Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs would be nowhere. Three ways not to share: nothing there, another folder there, written elsewhere."""
    plan = _plan(tmp_path)
    blind = "from gempim import sweep_dask\nsweep_dask._TOKEN = 'not-there'\nsweep_dask.VISIBLE_SECONDS = 0.1"
    worker = cluster.add_worker(blind)
    with pytest.raises(DataError, match=r"worker tcp://127.0.0.1:\d+: the folder of the runs, .*runs, is not shared"):
        run_sweep(plan, tmp_path / "runs", dask=cluster.address)
    worker.kill()
    worker.wait()
    cluster.add_worker(
        "from gempim import sweep_dask\nsweep_dask._look = lambda scratch, token: (sweep_dask.identity(), 'elsewhere')"
    )
    monkeypatch.setattr(sweep_dask, "VISIBLE_SECONDS", 0.2)
    with pytest.raises(DataError, match=r"what it writes to .*runs is not seen here"):
        run_sweep(plan, tmp_path / "runs", dask=cluster.address)
    (tmp_path / "same-path").mkdir()
    (tmp_path / "same-path" / "token").write_text("of another folder")
    with pytest.raises(DataError, match="is not shared"):
        sweep_dask._look(str(tmp_path / "same-path"), "ours")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"worker on .*: the folder of the runs, .* is not shared"):
        sweep_dask._simulate_aside(plan.points[0], "name", tmp_path / "elsewhere", sweep_dask.identity(), [])
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_that_a_worker_says_is_done_must_be_there(
    tmp_path: Path, cluster: _Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add_worker("from gempim import sweep_dask\nsweep_dask._point = lambda *a: None")
    monkeypatch.setattr(sweep_dask, "VISIBLE_SECONDS", 0.2)
    with pytest.raises(DataError, match="a worker finished it, but it is not there"):
        run_sweep(_plan(tmp_path), tmp_path / "runs", dask=cluster.address)


def test_other_data_files_on_a_worker_are_refused(tmp_path: Path) -> None:
    """A run is named after the contents of the files that it needs: another name there is another run."""
    (tmp_path / "token").write_text("x")
    with pytest.raises(DataError, match="other contents there"):
        sweep_dask._simulate_aside(_plan(tmp_path).points[0], "name", tmp_path, sweep_dask.identity(), [])
    assert not (tmp_path.parent / "name").exists()


def test_no_scheduler_and_no_worker_are_errors_in_bounded_time(
    tmp_path: Path, cluster: _Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tmp_path)
    monkeypatch.setattr(sweep_dask, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(sweep_dask, "WORKERS_SECONDS", 1)
    started = time.monotonic()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(DataError, match=rf"--dask {address}: no Dask scheduler answers there"):
            run_sweep(plan, tmp_path / "runs", dask=address)
    with pytest.raises(DataError, match="has had no worker for 1 s"):
        run_sweep(plan, tmp_path / "runs", dask=cluster.address)
    assert time.monotonic() - started < 15
    # Later too: its only worker goes away in the middle.
    worker = cluster.add_worker(STUCK)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_sweep, plan, tmp_path / "runs", dask=cluster.address)
        monkeypatch.setattr(sweep_dask, "WORKERS_SECONDS", 30)
        _wait_for((cluster.scratch / "stuck").exists)
        monkeypatch.setattr(sweep_dask, "WORKERS_SECONDS", 1)
        worker.kill()
        with pytest.raises(DataError, match="finished runs are kept"):
            ended.result(timeout=30)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_lost_scheduler_is_an_error(tmp_path: Path, cluster: _Cluster) -> None:
    cluster.add_worker(STUCK)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_sweep, _plan(tmp_path), tmp_path / "runs", dask=cluster.address)
        _wait_for((cluster.scratch / "stuck").exists)
        cluster.processes[0].kill()
        with pytest.raises(DataError, match="connection to the scheduler is lost"):
            ended.result(timeout=60)


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for options, names in (({"jobs": 2}, "--jobs and --dask"), ({}, "tcp://HOST:PORT")):
        with pytest.raises(DataError, match=names):
            run_sweep(_plan(tmp_path), tmp_path / "runs", dask="localhost", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()


def test_what_a_killed_sweep_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    dead = tmp_path / ".sweep-dead"
    (dead / "try-1" / "half").mkdir(parents=True)
    with sweep_dask._scratch(tmp_path) as one:
        assert not dead.exists()
        (one / "run").touch()
        with sweep_dask._scratch(tmp_path) as other:
            assert (one / "run").exists()
            assert other != one
        assert not other.exists()
    assert list(tmp_path.iterdir()) == []
