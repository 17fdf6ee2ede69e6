"""Run a guest program on a gempim system in gem5: in syscall emulation, or with `--fs` under Linux.

``gem5.opt --outdir=m5out gem5_configs/run.py --system sail --cpu o3 --binary GUEST --args ...``; ``--help`` lists the
options. In the output folder it leaves, besides gem5's own files: stats.txt with one section a region of interest,
roi.jsonl with what each section was, and guest.out with what the guest printed.
"""

import sys

from spec import options as command_line
from spec import system as systems
from spec.errors import SpecError


def _require_gem5() -> None:
    try:
        import m5  # noqa: F401
    except ImportError:
        raise SpecError("this script is run by gem5: gem5.opt run.py ...") from None


def main() -> int:
    """The run; its exit status."""
    options = command_line.parse(sys.argv[1:])
    try:
        if options.boot_only:
            _require_gem5()
            from simulation_fs import boot_only

            return boot_only(options)
        resolved = systems.load(options.experiment) if options.experiment else systems.resolve(options.system)
        systems.check_buildable(resolved)
        if resolved["kind"] == systems.PIM_MEMORY:
            host = systems.load(options.host) if options.host.endswith(".json") else systems.resolve(options.host)
            resolved = systems.with_host(resolved, host)
        command_line.check_against(options, resolved["sections"], resolved["system"])
        _require_gem5()
        if options.fs:
            from simulation_fs import FullSystemSimulation as Simulation
        else:
            from simulation import Simulation

        return Simulation(options, resolved).run()
    except SpecError as e:
        sys.stdout.flush()
        print(f"run.py: {e}", file=sys.stderr)
        return getattr(e, "status", 2)


if __name__ in ("__m5_main__", "__main__"):
    sys.exit(main())
