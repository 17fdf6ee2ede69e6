"""Makes the calibration files of the embedded engine from llama.cpp's own kernels, in gem5 or by static analysis.

Reading them is `gempim.engines.calibration`; `load_calibration` is here too for convenience.
"""

from gempim.engines.calibration import Calibration, load_calibration

__all__ = ["Calibration", "load_calibration"]
