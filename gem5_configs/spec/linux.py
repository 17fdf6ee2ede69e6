"""What `gempim linux build` made, checked before gem5 reads it."""

import hashlib
import json
import os
from typing import Any, Dict, Optional

from spec.errors import SpecError

SCHEMA = 1
ABOUT = "linux.json"
BUILD = "gempim linux build"

_AARCH64 = 183


class Linux:
    """Kernel, initramfs and addresses. Paths and values of `linux.json`."""

    def __init__(self, folder: str, about: Dict[str, Any]) -> None:
        self.kernel = os.path.join(folder, about["kernel"])
        self.initramfs = os.path.join(folder, about["initramfs"])
        self.command_line: str = about["command_line"]
        self.addresses: Dict[str, int] = about["addresses"]
        self.codes: Dict[str, int] = about["codes"]
        self.identity: Dict[str, Any] = {"sha256": about["sha256"], "command_line": self.command_line}
        """What makes two boots the same."""


def cache_folder() -> str:
    """gempim's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "gempim")


def load(folder: Optional[str]) -> Linux:
    """Read and check a folder that `gempim linux build` made.

    :param folder: default: the newest one in the cache
    :raises SpecError: it is not there, incomplete, damaged, or for another machine
    """
    path = folder or os.path.join(cache_folder(), "linux", "current")
    about_path = os.path.join(path, ABOUT)
    try:
        with open(about_path, encoding="utf-8") as f:
            about = json.load(f)
        schema = about["schema"]
    except FileNotFoundError:
        where = f"--linux {folder}" if folder else "--fs"
        raise SpecError(f"{where}: no kernel: {about_path} is not there; make it with: {BUILD}") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SpecError(f"{about_path}: cannot be read: {e}; make it again with: {BUILD}") from None
    if schema != SCHEMA:
        raise SpecError(f"{about_path}: schema {schema!r}, expected {SCHEMA}; make it again with: {BUILD}")
    try:
        linux = Linux(path, about)
        for file, expected in ((linux.kernel, about["sha256"][about["kernel"]]),
                               (linux.initramfs, about["sha256"][about["initramfs"]])):  # fmt: skip
            _check_file(file, expected)
    except KeyError as e:
        raise SpecError(f"{about_path}: {e.args[0]}: missing; make it again with: {BUILD}") from None
    _check_machine(linux.kernel)
    return linux


def _check_file(path: str, expected: str) -> None:
    try:
        with open(path, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
    except OSError as e:
        raise SpecError(f"{path}: cannot be read: {e.strerror or e}; make it again with: {BUILD}") from None
    if found != expected:
        raise SpecError(f"{path}: SHA-256 is {found}, {ABOUT} says {expected}; make it again with: {BUILD}")


def _check_machine(path: str) -> None:
    with open(path, "rb") as f:
        head = f.read(64)
    machine = int.from_bytes(head[18:20], "little")
    if head[:5] != b"\x7fELF\x02" or machine != _AARCH64:
        raise SpecError(f"{path}: ELF machine {machine}, expected {_AARCH64} (AArch64, 64 bit)")
