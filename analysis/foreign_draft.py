"""The beginning of a mapping file, from what a statistics file has."""

from __future__ import annotations

from gempim.analysis.energy import EnergyTable, load_energy_table
from gempim.analysis.foreign import MODEL_KEYS, WORKLOAD_KEYS
from gempim.analysis.foreign_counters import ALWAYS, has_term
from gempim.analysis.run import PIM_DEVICES
from gempim.analysis.source import Source
from gempim.analysis.stats import Section, quantity


def draft_mapping(source: Source, section: Section) -> str:
    """The beginning of a mapping file: what the statistics file has is filled in, what only its owner knows is `?`.

    A `?` is no TOML, so that a draft cannot be taken for a mapping.
    """
    table = load_energy_table("default")
    cores = len(quantity(section, "instructions")) if has_term(section, "@instructions") else 0
    lines = [
        "# Replace every ? and look at every counter; `gempim report THIS.toml` says what is still missing.",
        "schema = 1",
        f'stats = "{source.stats.name}"',
        "",
        "[system]",
        "name = ?           # as it stands in tables",
        f"cores = {cores or '?'}",
        "clock_hz = ?       # of the cores",
        "memory = ?         # for example DDR4-3200; the energy table must be for it",
        'energy_table = "default"',
        "price_key = ?      # a key of gempim's price tables",
        "",
        "[model]",
        *(f"{name} = ?" for name in MODEL_KEYS),
        "",
        "[workload]",
        *(f"{name} = ?" for name in WORKLOAD_KEYS),
        "",
        "[[roi]]            # one for every section, or [[skip]] with section and why",
        f"section = {section.index}",
        "label = ?          # prefill or decode",
        "tokens = ?         # made in this section, over the whole batch",
        "context = ?        # in the KV cache when it began",
        "",
        "[counters]         # ours = a statistic, a pattern with *, a @quantity, or {sum = [...], minus = [...]}",
    ]
    return "\n".join([*lines, *_draft_counters(section, table)]) + "\n"


# Our counters, and what gives them; `gem5_configs` machines and the engine gem5-se use the same derivations.
_DRAFT = {
    "system.cpu.busyCycles": "@cycles",
    "system.cpu.instructions::load": "@load_ops",
    "system.cpu.instructions::store": "@store_ops",
    "system.cpu.instructions::vector": "@vector_ops",
    "system.cpu.instructions::scalar": "@scalar_ops",
    "system.dram.acts": "@dram_activations",
    "system.dram.reads": "@dram_read_bursts",
    "system.dram.writes": "@dram_write_bursts",
    "system.dram.act_standby_ps": "@dram_open_ps",
    "system.dram.pre_standby_ps": "@dram_closed_ps",
    "system.dram.read_bytes": "@dram_read_bytes",
    "system.dram.write_bytes": "@dram_write_bytes",
}


def _draft_counters(section: Section, table: EnergyTable) -> list[str]:
    """A line for every counter of the energy table that this file may have, the ones that it lacks as comments."""
    lines = []
    for name in dict.fromkeys([*ALWAYS, *(row.stat for row in table.rows), *_pim_commands(section)]):
        device, _, counter = name.removeprefix("system.").partition(".")
        if name in _DRAFT and has_term(section, _DRAFT[name]):
            lines.append(f'"{name}" = "{_DRAFT[name]}"')
        elif device in PIM_DEVICES:
            found = [stat for stat in section.scalars if stat.endswith(f".{device}.{counter}")]
            lines += [f'"{name}" = "{stat}"' for stat in found]
        elif name.startswith(("system.cpu.", "system.dram.", "system.l", "system.llc.")):
            lines.append(f'# "{name}" = ?')
    return lines


def _pim_commands(section: Section) -> list[str]:
    return [f"system.{d}.commands" for d in PIM_DEVICES if any(n.endswith(f".{d}.commands") for n in section.scalars)]
