"""Third-party packages that gempim fetches by name at run time: one place for version and checksum."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pin:
    """A source distribution on the Python package index: name, version, and SHA-256 of the file."""

    name: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The requirement as pip reads it."""
        return f"{self.name}=={self.version}"


LLAMA_CPP_PYTHON = Pin(
    name="llama-cpp-python",
    version="0.3.36",
    file="llama_cpp_python-0.3.36.tar.gz",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)
"""Carries the llama.cpp sources (folder vendor/llama.cpp) whose kernels the calibration analyses."""
