# SPDX-License-Identifier: BSD-3-Clause
"""Loads the gempim plug-in into the gem5 that runs this: standard library and m5 only.

A plug-in is a folder made by `gempim plugin build`: `_gempim_gem5.so` and the Python package `gempim_gem5`. The shared
object is full of one gem5's class layouts, so it says in itself which gem5 it is for, and is not mapped into another.
"""

import hashlib
import importlib
import json
import os
import sys

MARKER = b"GEMPIM-PLUGIN-IDENTITY "
LIBRARY = "_gempim_gem5.so"
BUILD = "gempim plugin build --gem5 PATH/TO/gem5.opt"


class PluginError(RuntimeError):
    """The plug-in cannot be loaded; the message is one line that says what to do."""


def file_sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_identity(library):
    """What a plug-in library says it was built for, read from the file without loading it.

    Raises PluginError: no such file, or no identity in it.
    """
    try:
        with open(library, "rb") as file:
            data = file.read()
    except OSError as error:
        raise PluginError(f"{library}: {error.strerror}: build the plug-in with: {BUILD}") from None
    start = data.find(MARKER)
    end = data.find(b"\n", start)
    try:
        if start < 0 or end < 0:
            raise ValueError
        identity = json.loads(data[start + len(MARKER) : end].decode())
        return {key: identity[key] for key in ("gempim", "gem5_version", "gem5_sha256", "compiler")}
    except (ValueError, KeyError, TypeError):
        raise PluginError(f"{library}: no gempim plug-in: it carries no identity; build one with: {BUILD}") from None


def check_identity(identity, library, gem5_version, gem5_sha256):
    """Raises PluginError unless the library was built for exactly this gem5 binary."""
    if identity["gem5_sha256"] != gem5_sha256:
        theirs = identity["gem5_version"]
        other = "another build of" if theirs == gem5_version else f"gem5 {theirs}, not"
        raise PluginError(f"{library}: built for {other} gem5 {gem5_version}; build it for this one with: {BUILD}")


def default_folder(gem5_sha256):
    """Where `gempim plugin build` leaves the plug-in for a gem5 binary."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "gempim", "plugin", "for-" + gem5_sha256[:16])


def load(path=None):
    """Load the plug-in and return its extension module; a second call returns the first one's.

    :param path: folder of the plug-in; default: the environment's GEMPIM_PLUGIN, then where the builder leaves it
    :raises PluginError: no plug-in, one for another gem5, or the dynamic linker refuses it
    """
    if "_gempim_gem5" in sys.modules:
        return sys.modules["_gempim_gem5"]
    import _m5.core
    import m5.internal.params

    binary_hash = file_sha256("/proc/self/exe")
    folder = path or os.environ.get("GEMPIM_PLUGIN") or default_folder(binary_hash)
    library = os.path.join(folder, LIBRARY)
    if not os.path.exists(library):
        raise PluginError(f"no gempim plug-in for this gem5 at {folder}: build it with: {BUILD}")
    check_identity(read_identity(library), library, _m5.core.gem5Version, binary_hash)
    sys.path.insert(0, os.path.abspath(folder))
    before = sys.getdlopenflags()
    # RTLD_GLOBAL: C++ types of the plug-in and of gem5 must compare equal; RTLD_NOW: a missing symbol is an error now.
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        module = importlib.import_module("_gempim_gem5")
    except ImportError as error:
        raise PluginError(f"{library}: {error}; build it again with: {BUILD}") from None
    finally:
        sys.setdlopenflags(before)
    for name in dir(module):
        if name.endswith("Params") or "_COLONS_" in name:
            setattr(m5.internal.params, name, getattr(module, name))
    return module


def enable_debug_flags(names):
    """Switch on debug flags, the plug-in's included (gem5's own option is read before the plug-in is there).

    :raises PluginError: no such flag
    """
    import m5.debug

    for name in names:
        if name not in m5.debug.flags:
            raise PluginError(f"debug flag {name}: neither gem5 nor the plug-in has it")
        m5.debug.flags[name].enable()
