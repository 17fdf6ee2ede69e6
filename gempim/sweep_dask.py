"""The points of a sweep on a Dask cluster whose workers share the folder of the runs.

A worker simulates its point in a folder of its own inside `RUNS/.sweep-*`, on the shared file system, and renames the
finished run directory to where the local sweep would have put it. So a worker that is killed leaves nothing that
counts: the scheduler gives its points to others, and what it left goes with the `.sweep-*` folder.
"""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gempim import __version__
from gempim.experiment import Experiment
from gempim.quantity import DataError
from gempim.rundir import is_complete
from gempim.simulate import code_hashes, simulate

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer."""
WORKERS_SECONDS = 60
"""How long a cluster may have no worker, at the start and later, before the sweep gives up."""
VISIBLE_SECONDS = 30
"""How long a file written on one machine may take to be seen on another: network file systems cache."""

_POLL_SECONDS = 0.1
_TOKEN = "token"
_LOCK = "lock"


def identity() -> dict[str, str]:
    """What must be the same for client and workers: it decides results, or what a run directory says of them.

    Of Python only the minor version: a manifest names the whole one of the machine that simulated.
    """
    return {
        "gempim": __version__,
        **code_hashes(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in ("numpy", "dask", "distributed")},
    }


def run_on_dask(
    points: Sequence[tuple[Experiment, Path]], root: Path, address: str, *, command: list[str], done: Callable[[], None]
) -> None:
    """Simulate the points on the workers of a Dask scheduler.

    :param points: experiments with their run directories in `root`
    :param root: the folder of the run directories: the same path, of the same file system, for every worker
    :param address: the scheduler's, as tcp://HOST:PORT
    :param command: what the user typed, for the manifests
    :param done: called whenever a point is done
    :raises DataError: Dask is not installed; no scheduler or no worker within the times above; a worker with other
        versions, or that does not see `root`; a point that cannot be simulated, or that killed its workers
    """
    if "://" not in address:
        raise DataError(f"--dask {address}: expected the scheduler's address, as tcp://HOST:PORT")
    root.mkdir(parents=True, exist_ok=True)
    with _connect(address) as client, _scratch(root.resolve()) as scratch:
        _check_workers(client, address, scratch)
        mine = identity()
        futures = {
            client.submit(
                _point, experiment, path.name, str(scratch), mine, command,
                key=f"{path.name}-{scratch.name}", pure=False,
            ): path
            for experiment, path in points
        }  # fmt: skip
        try:
            for future in _as_completed(client, address, list(futures)):
                _result(future, futures[future].name, address)
                done()
        finally:
            client.cancel(list(futures), force=True)
        for path in futures.values():
            if not _within(VISIBLE_SECONDS, root, lambda path=path: is_complete(path)):  # type: ignore[misc]
                raise DataError(
                    f"{path}: a worker finished it, but it is not there: is {root} shared with the workers?"
                )


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    try:
        import distributed
    except ImportError:
        raise DataError("--dask: Dask is not installed: pip install 'gempim[dask]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other versions are an error below
            client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as e:
        raise DataError(f"--dask {address}: no Dask scheduler answers there ({e})") from None
    with client:
        versions: Any = client.get_versions()
        theirs = versions["scheduler"]["packages"]["distributed"]
        if theirs != distributed.__version__:
            raise DataError(
                f"--dask {address}: the scheduler has distributed {theirs}, here is {distributed.__version__}"
            )
        yield client


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A folder for unfinished runs, removed at the end. Those that killed sweeps left are removed too."""
    for old in root.glob(".sweep-*"):
        if handle := _lock(old):
            with handle:
                shutil.rmtree(old, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=".new-sweep-", dir=root))  # a name that no sweep removes, until it is locked
    handle = _lock(fresh)
    scratch = fresh.rename(root / fresh.name.replace(".new-", ".", 1))
    try:
        shutil.copymode(root, scratch)
        (scratch / _TOKEN).write_text(secrets.token_hex())
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if handle:
            handle.close()


def _lock(folder: Path) -> IO[str] | None:
    """Holds a sweep's folder until it is closed or its process dies; None where another one holds it."""
    try:
        handle = (folder / _LOCK).open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.close()
            return None
    except OSError:
        return None
    return handle


def _check_workers(client: Client, address: str, scratch: Path) -> None:
    """:raises DataError: no worker, or one that cannot do what this process would do"""
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError:
        raise DataError(f"--dask {address}: the scheduler has had no worker for {WORKERS_SECONDS} s") from None
    token = (scratch / _TOKEN).read_text()
    try:
        answers: dict[str, Any] = client.run(_look, str(scratch), token, on_error="return")
    except Exception as e:  # whatever a worker without gempim, or with another one, makes of it
        raise DataError(f"--dask {address}: a worker cannot run this version of gempim: {e!r}") from None
    alive = client.nthreads()
    for worker, answer in answers.items():
        if isinstance(answer, DataError):
            raise DataError(f"--dask {address}: worker {worker}: {answer}")
        if isinstance(answer, BaseException):
            if worker in alive:
                raise DataError(f"--dask {address}: worker {worker} cannot run this version of gempim: {answer!r}")
            continue  # it went away meanwhile
        theirs, wrote = answer
        _check_identity(theirs, identity(), f"--dask {address}: worker {worker}")
        if not _within(VISIBLE_SECONDS, scratch, (scratch / wrote).is_file):
            raise DataError(f"--dask {address}: worker {worker}: what it writes to {scratch.parent} is not seen here")


def _check_identity(theirs: Mapping[str, str], ours: Mapping[str, str], who: str) -> None:
    for name, value in ours.items():
        if (found := theirs.get(name, "none")) != value:
            raise DataError(f"{who} has {name} {found[:16]}, the client {value[:16]}: install the same gempim on both")


def _look(scratch: str, token: str) -> tuple[dict[str, str], str]:
    """On a worker: its identity, and the name of a file that it wrote beside the token."""
    _check_shared(Path(scratch), token)
    handle, name = tempfile.mkstemp(prefix="worker-", dir=scratch)
    os.close(handle)
    return identity(), Path(name).name


def _check_shared(scratch: Path, token: str | None = None) -> None:
    def seen() -> bool:
        try:
            found = (scratch / _TOKEN).read_text()
        except OSError:
            return False
        return token in (None, found)

    if not _within(VISIBLE_SECONDS if scratch.parent.is_dir() else 0, scratch.parent, seen):
        raise DataError(
            f"the folder of the runs, {scratch.parent}, is not shared with it: client and workers need the same file"
            " system at the same path"
        )


def _point(
    experiment: Experiment, name: str, scratch: str, ours: Mapping[str, str], command: list[str]
) -> tuple[type[Exception], str] | None:
    """On a worker: one run. What goes wrong comes back as text: an exception that cannot be carried to the client,
    or read there, would never arrive.
    """
    try:
        _simulate_aside(experiment, name, Path(scratch), ours, command)
    except DataError as e:
        return DataError, str(e)
    except Exception:
        return RuntimeError, f"{name} on {platform.node()}:\n{traceback.format_exc()}"
    return None


def _simulate_aside(
    experiment: Experiment, name: str, scratch: Path, ours: Mapping[str, str], command: list[str]
) -> None:
    """Made in a folder of its own and renamed last."""
    where = f"worker on {platform.node()}"
    _check_identity(identity(), ours, where)  # it may have come after the check of all
    try:
        _check_shared(scratch)
    except DataError as e:
        raise DataError(f"{where}: {e}") from None
    target = scratch.parent / name
    if is_complete(target):
        return
    attempt = Path(tempfile.mkdtemp(prefix="try-", dir=scratch))
    made = simulate(experiment, attempt, command=command)
    if made.name != name:
        raise DataError(f"{where}: {name}: a data file that it names has other contents there (the run is {made.name})")
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)
    try:
        made.rename(target)
    except OSError:
        if not is_complete(target):  # another sweep may have finished the same run
            raise
    shutil.rmtree(attempt, ignore_errors=True)


def _as_completed(client: Client, address: str, futures: list[Future]) -> Iterator[Future]:
    """The futures as they end. :raises DataError: the cluster has had no worker for too long"""
    import distributed

    ended = distributed.as_completed(futures, loop=client.loop)
    last_worker = time.monotonic()
    while not ended.is_empty():
        batch = ended.next_batch(block=False)
        yield from batch
        if batch:
            last_worker = time.monotonic()
            continue
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - last_worker < WORKERS_SECONDS:
            continue
        if not client.nthreads():
            raise DataError(
                f"--dask {address}: the scheduler has had no worker for {WORKERS_SECONDS} s; finished runs are kept:"
                " start the sweep again when it has"
            )
        last_worker = time.monotonic()


def _result(future: Future, name: str, address: str) -> None:
    """Raises what a point's task raised, in gempim's words where it is the cluster's doing."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        failure: tuple[type[Exception], str] | None = future.result()
    except KilledWorker as e:
        raise DataError(f"{name}: its workers died, {e.allowed_failures + 1} of them: out of memory?") from None
    except FutureCancelledError:
        raise DataError(
            f"--dask {address}: the connection to the scheduler is lost; finished runs are kept: start the sweep again"
        ) from None
    if failure is not None:
        kind, text = failure
        raise kind(text)


def _within(seconds: float, folder: Path, check: Callable[[], bool]) -> bool:
    """Whether `check` holds within some seconds. Listing `folder` makes a network file system look again."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_SECONDS)
        if folder.is_dir():
            os.listdir(folder)
    return True
