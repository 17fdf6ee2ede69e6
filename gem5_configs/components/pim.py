"""The PIM devices of a system."""

from typing import Any, List, Mapping, Optional, Tuple

from m5.objects import SrcClockDomain, VoltageDomain

from spec.errors import SpecError

_SET_BY_DEVICE = ("results_to_memory",)
"""Parameters of the model that have one value in gem5: results go through the data port."""


def load_plugin(path: Optional[str]) -> None:
    """Load the plug-in. :raises SpecError: it is not there, or was built for another gem5"""
    import gempim_plugin

    try:
        gempim_plugin.load(path)
    except gempim_plugin.PluginError as e:
        raise SpecError(str(e)) from None


def enable_debug_flags(names: List[str]) -> None:
    """Switch on debug flags, of the loaded plug-in or of gem5. :raises SpecError: no such flag"""
    import gempim_plugin

    try:
        gempim_plugin.enable_debug_flags(names)
    except gempim_plugin.PluginError as e:
        raise SpecError(f"--pim-debug: {e}") from None


def sram_pim(values: Mapping[str, Any], plugin: Optional[str]) -> Tuple[Any, type]:
    """The SRAM-PIM of a system and the decoder that knows its instruction.

    :param values: section `sram_pim`
    :param plugin: path of the plug-in; None for the loader's default
    :raises SpecError: as :func:`load_plugin`
    """
    load_plugin(plugin)
    from gempim_gem5.PimArmDecoder import PimArmDecoder
    from gempim_gem5.SramPim import SramPim

    device = SramPim(**{k: v for k, v in values.items() if k not in _SET_BY_DEVICE})
    device.clk_domain = SrcClockDomain(clock=f"{int(values['clock_ps'])}ps", voltage_domain=VoltageDomain())
    return device, PimArmDecoder
