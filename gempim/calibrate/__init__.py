"""Makes the calibration files of the embedded engine, by static analysis of llama.cpp's own kernels.

Reading them is `gempim.engines.calibration`; `load_calibration` is here too for convenience.
"""

from gempim.engines.calibration import Calibration, load_calibration

__all__ = ["Calibration", "load_calibration"]
