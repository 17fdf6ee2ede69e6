"""Makes the calibration files of the embedded engine, by static analysis of llama.cpp's own kernels."""
