"""One generation from the request to the run directory: which gem5 runs there are, and what each is for.

`--sample layers` and `all`: a functional run writes checkpoints, restored runs measure between them, in parallel.
`--sample none`: with one thread a single run that switches to the detailed CPU when the model is loaded; with several,
a checkpoint after the load and one restored run, since gem5 cannot switch CPU models once threads exist.
Functional CPU models: only the functional run; its time says nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gempim.analysis.stats import parse_stats
from gempim.engines.gem5_se import (
    LOG,
    Gem5Options,
    check_ended,
    find_binary,
    find_plugin,
    input_hashes,
    launch,
    remove_scratch,
    roi_rows,
)
from gempim.engines.llama import checkpoints, rundir
from gempim.engines.llama.checkpoints import GUEST_OUT, Runner
from gempim.engines.llama.counters import Counts, region_counts
from gempim.engines.llama.estimate import PassEstimate, estimate_all
from gempim.engines.llama.output import GuestOutput, read_output
from gempim.engines.llama.plan import LOAD, Layout, Plan, Restore, pass_label, plan_layers
from gempim.engines.llama.request import MODEL_LINK, LlamaRequest, Model, check, load_model, memory_size
from gempim.experiment import file_sha256
from gempim.quantity import DataError
from gempim.resolve import resolved_values
from gempim.rundir import is_complete, write_json, write_run
from gempim.systems import System

JOBS = 2
"""gem5 runs at a time: each takes one core of this machine and 1 to 2 GB."""

Progress = Callable[[int, int], None]
"""Called with the gem5 runs that are done and the gem5 runs in all."""

_TOKEN = re.compile(r"^token (\d+) (\d+)$", re.MULTILINE)
_GUEST_SAYS = re.compile(rb"^llama: (.+)$", re.MULTILINE)
_FUNCTIONAL_CPU = "atomic_noncaching"


@dataclass(frozen=True)
class Outcome:
    """What a generation left: the run directory (None for a functional one), and what the guest generated.

    `cached` is the folder of the functional run in the cache, None when there was none.
    """

    run: Path | None
    text: str
    tokens: tuple[int, ...]
    cached: Path | None


@dataclass(frozen=True)
class Inputs:
    """Everything that a session needs besides the request: tests put stand-ins here.

    :param guest: the guest program
    :param hashes: of gem5, guest, plug-in, gem5_configs
    :param runner: see `checkpoints.Runner`
    """

    guest: Path
    hashes: Mapping[str, str]
    runner: Runner


def real_inputs(request: LlamaRequest, system: System, gem5: Path | None, plugin: Path | None) -> Inputs:
    """The guest program (built when it is not there), gem5 and the plug-in. :raises DataError: one is missing"""
    from gempim.workloads.guest import PROGRAM, build_guest

    binary = find_binary(gem5)
    binary_hash = file_sha256(binary)
    plug = find_plugin(plugin, system, binary_hash)
    guest = build_guest() / PROGRAM
    resolved = resolved_values(system)

    def run(folder: Path, options: Gem5Options) -> int:
        write_json(folder / "system.json", resolved)
        # The guest opens the model by a relative name, so that its path decides nothing.
        with tempfile.TemporaryDirectory(prefix="gempim-llama-") as cwd:
            (Path(cwd) / MODEL_LINK).symlink_to(request.gguf.resolve())
            return launch(folder, binary, plug, options, folder / "system.json", cwd=Path(cwd))

    return Inputs(guest, {"gem5": binary_hash, **input_hashes(Gem5Options(binary=guest), plug)}, run)


def run_llama(
    request: LlamaRequest,
    system: System,
    root: Path,
    *,
    gem5: Path | None = None,
    plugin: Path | None = None,
    inputs: Inputs | None = None,
    jobs: int | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Generate in gem5 and write the run directory, unless a complete one is there.

    :param root: the folder that holds run directories (`runs/`)
    :param gem5: the gem5 binary; default: gem5.opt on the PATH
    :param plugin: folder of the built plug-in; default: see `gem5_se.find_plugin`
    :param inputs: default: the real ones
    :param jobs: gem5 runs at a time; default: JOBS, at most the cores of this machine
    :param command: what the user typed, for the manifest
    :raises DataError: bad input, or gem5 or the guest failed (with the last lines of the log, which is kept)
    """
    model = load_model(request.gguf)
    check(request, system, model)
    if request.sample == "none":
        model = model.as_it_is()
    if not request.mem_size:
        request = replace(request, mem_size=memory_size(model.file))
    inputs = inputs or real_inputs(request, system, gem5, plugin)
    jobs = jobs or min(JOBS, os.cpu_count() or 1)
    return _Session(request, system, model, root, inputs, jobs, command, progress or (lambda done, total: None)).run()


class _Session:
    def __init__(
        self, request: LlamaRequest, system: System, model: Model, root: Path, inputs: Inputs, jobs: int,
        command: Sequence[str] | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.request = request
        self.system = system
        self.model = model
        self.inputs = inputs
        self.jobs = jobs
        self.command = command
        self.progress = progress
        self.args = request.guest_args(system)
        self.hashes = {**inputs.hashes, "gguf": file_sha256(request.gguf)}
        self.decides = {"system": resolved_values(system), "hashes": self.hashes}
        self.path = root / self._name()
        self.saved_log = root / f".failed-{self.path.name}.log"
        self.commands: list[str] = []

    def _name(self) -> str:
        """`gem5-<system>-<model>-<quant>-t<threads>-<cpu>-<sample>-<hash>`."""
        r = self.request
        content = {
            **self.decides,
            "energy": self.system.energy_table,
            "price": self.system.price,
            "request": r.to_json(),
            "args": self.args,
            "engine": rundir.engine_hash(),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
        m = self.model.reported
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in m.name.lower())[:64]
        return f"gem5-{self.system.name}-{name}-{m.quant}-t{r.threads}-{r.cpu}-{r.sample}-{digest}"

    def run(self) -> Outcome:
        if self.request.functional:
            return self._functional_only()
        if is_complete(self.path):
            said = json.loads((self.path / "manifest.json").read_text())["llama"]
            return Outcome(self.path, said["text"], tuple(said["tokens"]), None)
        started = time.perf_counter()
        cached: list[Path] = []

        def fill(folder: Path) -> None:
            (folder / "gem5").mkdir()
            if self.request.sample == "none":
                generation = self._every_pass(folder / "gem5", cached)
            else:
                generation = self._sampled(folder / "gem5", cached)
            rundir.write(
                folder, self.path, self.request, self.system, self.model, generation,
                hashes={**self.hashes, "engine": rundir.engine_hash()}, commands=self.commands,
                wall=time.perf_counter() - started, command=self.command,
            )  # fmt: skip

        write_run(self.path, fill)
        said = json.loads((self.path / "manifest.json").read_text())["llama"]
        return Outcome(self.path, said["text"], tuple(said["tokens"]), cached[0] if cached else None)

    # What gem5 is told --------------------------------------------------------------------------------------------

    def _options(self, cpu: str, **more: Any) -> Gem5Options:
        r = self.request
        return Gem5Options(
            binary=self.inputs.guest, args=self.args, cpu=cpu, cores=r.threads, caches=r.caches, mem_size=r.mem_size,
            **more,
        )  # fmt: skip

    def _functional(self, cpu: str, regions: Sequence[int], *, whole: bool) -> Path:
        """The entry of the functional run with checkpoints at `regions`."""
        options = self._options(cpu, checkpoint_at_roi=tuple(regions), checkpoint_continue=whole and bool(regions))
        entry = checkpoints.functional_run(
            options, self.decides, self.inputs.runner, self.saved_log,
            lambda folder: self._explain(folder, regions),
        )  # fmt: skip
        self.commands.append(_command(checkpoints.log_of(entry)))
        return entry

    def _explain(self, folder: Path, regions: Sequence[int] = ()) -> None:
        """:raises DataError: where the guest itself says why it failed, or ended before a wanted region"""
        said = _GUEST_SAYS.findall((folder / LOG).read_bytes()) if (folder / LOG).is_file() else []
        if said:
            self.saved_log.parent.mkdir(parents=True, exist_ok=True)
            self.saved_log.write_bytes((folder / LOG).read_bytes())
            raise DataError(f"the guest: {said[-1].decode(errors='replace')} (log: {self.saved_log})")
        try:
            output = read_output(folder / GUEST_OUT)
        except DataError:
            return
        if len(output.tokens) < self.request.tokens and any(n not in output.regions for n in regions):
            raise DataError(
                f"--tokens {self.request.tokens}: the model ends the text after {len(output.tokens)} tokens, before"
                f" the pass that is measured; take --tokens {len(output.tokens)}, or --ignore-eos"
            )

    # The three ways -----------------------------------------------------------------------------------------------

    def _functional_only(self) -> Outcome:
        self.progress(0, 1)
        entry = self._functional(self.request.cpu, (), whole=True)
        self.progress(1, 1)
        output = read_output(entry / GUEST_OUT)
        return Outcome(None, output.text or "", output.tokens, entry)

    def _every_pass(self, folder: Path, cached: list[Path]) -> rundir.Generation:
        """`--sample none`."""
        before: Path | None = None
        if self.request.threads == 1:
            self.progress(0, 1)
            options = self._options(self.request.cpu, fast_forward=True, detailed_from_roi=LOAD + 1)
            total = 1
        else:
            total = 2
            self.progress(0, total)
            entry = self._functional(_FUNCTIONAL_CPU, (LOAD + 1,), whole=False)
            cached.append(entry)
            self.progress(1, total)
            before = entry / GUEST_OUT
            options = self._options(self.request.cpu, restore=checkpoints.checkpoint_of(entry, (LOAD + 1,), LOAD + 1))
        measured = self._measure(folder / "passes", options)
        output = read_output(folder / "passes" / GUEST_OUT, before=before)
        self.progress(total, total)
        expected = {1 + p: pass_label(p) for p in range(len(output.tokens))}
        if {n: output.regions.get(n) for n in measured} != expected:
            raise DataError(f"{folder / 'passes'}: regions {sorted(measured)}, expected one a pass: {expected}")
        passes = {
            n - 1: PassEstimate({"pass": counts}, self.model.file.n_layers, 0.0, 1, 0, counts.instructions)
            for n, counts in measured.items()
        }
        return rundir.Generation(output, passes, measured=len(measured), warmup=0)

    def _sampled(self, folder: Path, cached: list[Path]) -> rundir.Generation:
        """`--sample layers` and `all`."""
        r = self.request
        plan = plan_layers(self.model.shape.file, r.passes, sample=r.sample, warmup=r.warmup)
        total = 1 + len(plan.restores)
        self.progress(0, total)
        entry = self._functional(_FUNCTIONAL_CPU, plan.checkpoints, whole=True)
        cached.append(entry)
        output = read_output(entry / GUEST_OUT)
        self._check_regions(output, plan)
        self.progress(1, total)
        measured: dict[int, Counts] = {}
        done = 1
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._restored, folder, entry, plan, restore, output) for restore in plan.restores]
            try:
                for future in futures:
                    measured.update(future.result())
                    done += 1
                    self.progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        # In the order of the plan, whichever ended first.
        passes = estimate_all(self.model.shape, plan, measured, prompt=len(output.prompt), tokens=len(output.tokens))
        warmup = sum(len(restore.regions) - len(restore.measured) for restore in plan.restores)
        return rundir.Generation(output, passes, measured=len(measured), warmup=warmup)

    def _check_regions(self, output: GuestOutput, plan: Plan) -> None:
        layout = Layout(self.model.file.n_layers)
        for region in plan.measured:
            said, expected = output.regions.get(region), layout.label(region)
            if said != expected:
                raise DataError(f"{output.file}: region {region} is {said!r}, expected {expected!r}")

    def _restored(
        self, folder: Path, entry: Path, plan: Plan, restore: Restore, functional: GuestOutput
    ) -> dict[int, Counts]:
        """Run from a checkpoint. :return: counters of the regions that are measured

        :raises DataError: other regions than planned, or another token than the functional run's
        """
        options = self._options(
            self.request.cpu,
            restore=checkpoints.checkpoint_of(entry, plan.checkpoints, restore.first),
            stop_after_roi=restore.last,
        )
        found = self._measure(folder / f"roi-{restore.first}", options)
        said = folder / f"roi-{restore.first}" / GUEST_OUT
        for index, token in _TOKEN.findall(said.read_text(encoding="utf-8", errors="replace")):
            if functional.tokens[int(index) : int(index) + 1] != (int(token),):
                raise DataError(f"{said}: token {index} is {token}, the functional run says {functional.tokens}")
        if tuple(found) != tuple(restore.regions):
            raise DataError(
                f"{folder / f'roi-{restore.first}'}: regions {list(found)}, expected {list(restore.regions)}"
            )
        return {region: found[region] for region in restore.measured}

    def _measure(self, folder: Path, options: Gem5Options) -> dict[int, Counts]:
        """One detailed gem5 run, its output kept in `folder`. :return: counters by region index"""
        folder.mkdir()
        status = self.inputs.runner(folder, options)
        if status:
            self._explain(folder)
        saved = self.saved_log.with_name(f".failed-{self.path.name}-{folder.name}.log")
        check_ended(status, folder, saved)
        sections = parse_stats(folder / "stats.txt")
        rows = roi_rows(folder, sections)
        counts = {
            int(row["index"]): region_counts(section, self.system) for row, section in zip(rows, sections, strict=True)
        }
        self.commands.append(_command(folder / LOG))
        remove_scratch(folder)
        rundir.compress(folder / "stats.txt")
        for name in ("config.ini", "system.json"):
            (folder / name).unlink(missing_ok=True)
        return counts


def _command(log: Path) -> str:
    """The command line at the head of a log."""
    try:
        first = log.read_text(errors="replace").splitlines()[:1]
    except OSError:
        return ""
    return first[0].removeprefix("$ ") if first else ""
