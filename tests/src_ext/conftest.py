"""The plug-in and the guest programs, built once for all tests in gem5."""

from __future__ import annotations

import pytest
from gem5_device import Gem5

from gempim.doctor import find_gem5
from gempim.plugin import build
from gempim.quantity import DataError
from gempim.workloads.build import build_micro


@pytest.fixture(scope="session")
def device() -> Gem5:
    """The SRAM-PIM in the gem5 on the PATH."""
    binary = find_gem5()
    assert binary is not None, "tests marked gem5 are skipped without one"
    try:
        micro = build_micro()
    except DataError as error:
        pytest.skip(f"NOT RUN IN gem5: {error}")
    return Gem5(binary, build(binary), micro)
