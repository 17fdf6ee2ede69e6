"""Gets the pinned Debian packages with apt-get, without root and without touching the machine's own apt.

apt-get runs with folders of its own, for the architecture arm64, and every package is held against its SHA-256. Sources
are asked one after another: the mirror that the user names, Debian's own, and Debian's archive of old versions.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gempim.cache import cache_dir
from gempim.calibrate.toolchain import ToolError, run
from gempim.quantity import DataError

SUITE = "bookworm"
MIRROR_VARIABLE = "GEMPIM_DEBIAN_MIRROR"
MIRROR = "http://deb.debian.org/debian"
SNAPSHOT = "http://snapshot.debian.org/archive/debian/20260712T000000Z"
"""Debian's archive of old versions, the day after the release that the pins are of."""


@dataclass(frozen=True)
class Package:
    """A package of the suite: name, version, file name and its SHA-256."""

    name: str
    version: str
    file: str
    sha256: str


KERNEL_RELEASE = "6.1.0-50-cloud-arm64"

KERNEL = Package(
    name=f"linux-image-{KERNEL_RELEASE}",
    version="6.1.176-1",
    file=f"linux-image-{KERNEL_RELEASE}_6.1.176-1_arm64.deb",
    sha256="9d41a53f5d687ae1a33cf546d0ed8be955f72e5f9e97b2b4e45e41dff3353b97",
)
BUSYBOX = Package(
    name="busybox-static",
    version="1:1.35.0-4+deb12u1+b1",
    file="busybox-static_1%3a1.35.0-4+deb12u1+b1_arm64.deb",
    sha256="732c9135564fc71337e0e05fb4da4d11e6c28c1834bce3e405e575afef2a52f5",
)
PACKAGES = (KERNEL, BUSYBOX)

KERNEL_FILE = f"boot/vmlinuz-{KERNEL_RELEASE}"
BUSYBOX_FILE = "bin/busybox"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(path: Path, package: Package) -> Path:
    digest = _sha256(path)
    if digest != package.sha256:
        raise DataError(f"{path}: SHA-256 is {digest}, pinned is {package.sha256}")
    return path


def packages(which: Sequence[Package], mirror: str | None = None, folder: Path | None = None) -> tuple[Path, ...]:
    """The files of some of PACKAGES, from the cache or downloaded.

    :param mirror: address of a Debian mirror; default: the environment's GEMPIM_DEBIAN_MIRROR, then Debian's own
    :param folder: take the files from here instead, and download nothing
    :raises DataError: they cannot be had, or one has another checksum
    """
    if folder is not None:
        missing = [p.file for p in which if not (folder / p.file).is_file()]
        if missing:
            raise DataError(f"--packages {folder}: no file {missing[0]}; expected: {', '.join(p.file for p in which)}")
        return tuple(_checked(folder / p.file, p) for p in which)
    kept = cache_dir() / "debian"
    wanted = [p for p in which if not (kept / p.file).is_file() or _sha256(kept / p.file) != p.sha256]
    if wanted:
        try:
            kept.mkdir(parents=True, exist_ok=True)
            _download(wanted, kept, mirror or os.environ.get(MIRROR_VARIABLE) or None)
        except OSError as e:
            raise DataError(f"cannot keep the Debian packages in {kept}: {e}") from None
    return tuple(kept / p.file for p in which)


def _download(wanted: Sequence[Package], kept: Path, mirror: str | None) -> None:
    if shutil.which("apt-get") is None:
        raise DataError(
            "apt-get is not on the PATH: download the packages elsewhere and name their folder with --packages DIR: "
            + ", ".join(p.file for p in wanted)
        )
    failed = []
    for address in [mirror] if mirror else [MIRROR, SNAPSHOT]:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=kept) as scratch:
            try:
                _ask(address, wanted, Path(scratch))
            except ToolError as e:
                failed.append(f"{address}: {e}")
                continue
            for package in wanted:
                _checked(Path(scratch) / "files" / package.file, package).replace(kept / package.file)
            return
    raise DataError(
        "the Debian packages cannot be had (another mirror: --mirror URL; files that are here: --packages DIR):\n"
        + "\n".join(failed)
    )


def _ask(mirror: str, wanted: Sequence[Package], scratch: Path) -> None:
    """Download from one mirror into `scratch/files`. Raises ToolError."""
    for name in ("lists/partial", "cache/archives/partial", "files", "etc"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    # Trusted: whatever a mirror says, only files with the pinned checksums are used.
    (scratch / "sources.list").write_text(f"deb [trusted=yes check-valid-until=no] {mirror} {SUITE} main\n")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        # As root apt-get would drop to a user who may not write here.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Dir::State": scratch,
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": scratch / "etc",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": scratch / "etc",
    }
    apt = ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    run([*apt, "--error-on=any", "update"], why=f"asking {mirror} for its list of packages")
    names = [f"{p.name}={p.version}" for p in wanted]
    run([*apt, "download", *names], cwd=scratch / "files", why=f"downloading {', '.join(names)}")
    for package in wanted:
        if not (scratch / "files" / package.file).is_file():
            found = ", ".join(sorted(path.name for path in (scratch / "files").iterdir())) or "nothing"
            raise ToolError(f"downloading {package.name}: expected {package.file}, got {found}")
