"""What `gempim linux build` is made of, without gem5: each reader and writer against the tool that it stands in for."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gempim.quantity import DataError
from gempim.workloads.linux import cpio, debian, image, layout
from gempim.workloads.linux.build import build_linux
from gempim.workloads.linux.deb import read_file


def _needs(tool: str, package: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"NOT RUN: no {tool} (Debian package {package})")
    return found


# Packages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_reads_what_dpkg_deb_packs(tmp_path: Path, compression: str) -> None:
    """A package made by dpkg-deb, with files of even and odd sizes, is read to the byte."""
    dpkg = _needs("dpkg-deb", "dpkg")
    rng = np.random.default_rng(7)
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: x\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    files = {f"usr/lib/f{i}": rng.bytes(int(rng.integers(0, 5000))) for i in range(5)}
    for name, data in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    package = tmp_path / "x.deb"
    subprocess.run([dpkg, f"-Z{compression}", "--build", tree, package], check=True, capture_output=True)
    for name, data in files.items():
        assert read_file(package, name) == data


def test_reads_what_ar_packs(tmp_path: Path) -> None:
    """Members of odd size are padded, and their names may end with a slash."""
    tool = _needs("ar", "binutils")
    (tmp_path / "control.tar.xz").write_bytes(b"odd")
    (tmp_path / "data.tar.xz").write_bytes(_tar(x=b"content"))
    subprocess.run([tool, "rc", "x.deb", "control.tar.xz", "data.tar.xz"], cwd=tmp_path, check=True)
    assert read_file(tmp_path / "x.deb", "x") == b"content"


def _ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def _tar(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a package", "no Debian package"),
        (_ar(("debian-binary", b"2.0\n")), "no data.tar"),
        (_ar(("data.tar.xz", _tar(a=b"1"))), "no file boot/vmlinuz"),
        (_ar(("data.tar.xz", _tar(a=np.random.default_rng(1).bytes(9000))[:5000])), "cannot be unpacked"),
        (_ar(("data.tar.xz", b"x" * 100))[:-30], "a member ends at"),
        (_ar(("debian-binary", b"2.0\n")) + b"x" * 80, "no member header"),
    ],
)
def test_a_damaged_package_is_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_file(path, "boot/vmlinuz")
    assert str(path) in str(caught.value)


def test_a_package_with_another_checksum_is_refused(tmp_path: Path) -> None:
    """Named files are held against the pins as downloaded ones are."""
    for package in debian.PACKAGES:
        (tmp_path / package.file).write_bytes(b"other")
    with pytest.raises(DataError, match="SHA-256 is") as caught:
        build_linux(packages=tmp_path)
    assert debian.KERNEL.sha256 in str(caught.value)


def test_a_missing_package_names_the_file_that_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"linux-image-.*_arm64\.deb"):
        build_linux(packages=tmp_path)


def test_a_mirror_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt-get's own words come through, and what else can be done."""
    _needs("apt-get", "apt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/debian") as caught:
        build_linux(mirror="http://127.0.0.1:9/debian")
    assert "--packages DIR" in str(caught.value)
    assert not list((tmp_path / "gempim" / "linux").glob("aarch64-*"))


# Archives ------------------------------------------------------------------------------------------------------------


def test_cpio_reads_what_we_write(tmp_path: Path) -> None:
    """Names, modes, contents, links and devices, as the cpio program lists and unpacks them."""
    tool = _needs("cpio", "cpio")
    rng = np.random.default_rng(3)
    files = {f"d/f{i}": rng.bytes(int(rng.integers(0, 9000))) for i in range(6)}
    entries = [
        cpio.folder("d"),
        *(cpio.file(name, data, executable=name.endswith("1")) for name, data in files.items()),
        cpio.link("link", "d/f0"),
        cpio.character_device("console", 5, 1),
    ]
    archive = tmp_path / "a.cpio"
    with archive.open("wb") as stream:
        cpio.write(stream, entries)
    listed = subprocess.run([tool, "-tv"], stdin=archive.open("rb"), capture_output=True, text=True, check=True).stdout
    lines = {line.split()[8]: line.split() for line in listed.splitlines() if not line.startswith("c")}
    assert lines["d"][0] == "drwxr-xr-x"
    assert lines["d/f1"][0] == "-rwxr-xr-x"
    assert lines["d/f2"][0] == "-rw-r--r--"
    assert any(line.startswith("crw-------") and "5,   1" in line for line in listed.splitlines())
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([tool, "-id", "d*", "link"], stdin=archive.open("rb"), cwd=out, check=True, capture_output=True)
    for name, data in files.items():
        assert (out / name).read_bytes() == data
    assert (out / "link").readlink() == Path("d/f0")


def test_nothing_of_this_machine_gets_into_an_archive(tmp_path: Path) -> None:
    """Owner, time and links are the same everywhere: the boot checkpoint hangs on the hash of the initramfs."""
    tool = _needs("cpio", "cpio")
    archive = tmp_path / "a.cpio"
    with archive.open("wb") as stream:
        cpio.write(stream, [cpio.folder("d"), cpio.file("d/x", b"123")])
    said = subprocess.run([tool, "-tvn"], stdin=archive.open("rb"), capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        assert line.split()[1:4] == ["1", "0", "0"], line
        assert "1970" in line, line


def test_a_file_too_large_for_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="below 4 GiB"):
        cpio.header(1, "big", 0o100644, 1 << 32)


# The kernel ----------------------------------------------------------------------------------------------------------


def _image(size: int = 4096, flags: int = 0xA, magic: bytes = b"ARM\x64") -> bytes:
    data = bytearray(size)
    data[16:24] = (2 * size).to_bytes(8, "little")
    data[24:32] = flags.to_bytes(8, "little")
    data[56:60] = magic
    return bytes(data)


def test_the_size_is_that_of_the_header() -> None:
    """A kernel takes more memory than its file has bytes."""
    assert image.check_kernel(_image(), "x") == 8192


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "something else"),
        (b"\x1f\x8b" + bytes(100), "gzip-compressed"),
        (b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(100), "ELF file for x86-64"),
        (bytes(0x202) + b"HdrS" + bytes(100), "x86 bzImage"),
        (_image(flags=0xB), "little-endian"),
        (_image(flags=0xC), "pages of 4 KiB"),
    ],
)
def test_a_kernel_of_another_kind_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "Image"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        build_linux(kernel=path)
    assert str(path) in str(caught.value)


def test_a_kernel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        build_linux(kernel=tmp_path / "nothing")


def test_readelf_reads_the_wrapped_kernel(tmp_path: Path) -> None:
    """Machine, entry and both segments, as binutils see them, and their bytes at the offsets that it names."""
    tool = _needs("readelf", "binutils")
    rng = np.random.default_rng(5)
    parts = (image.Segment(0x0, rng.bytes(5001)), image.Segment(0x80200000, rng.bytes(12345)))
    data = image.wrap(0x40, parts)
    path = tmp_path / "k.elf"
    path.write_bytes(data)
    said = subprocess.run([tool, "-hlW", path], capture_output=True, text=True, check=True)
    assert "Warning" not in said.stderr
    assert "AArch64" in said.stdout
    assert "Entry point address:               0x40" in said.stdout
    loads = [line.split() for line in said.stdout.splitlines() if line.split()[:1] == ["LOAD"]]
    assert [int(line[3], 16) for line in loads] == [0x0, 0x80200000]
    for line, part in zip(loads, parts, strict=True):
        offset, size = int(line[1], 16), int(line[4], 16)
        assert data[offset : offset + size] == part.data
        assert offset % 4096 == part.address % 4096


def test_nothing_overlaps_in_memory() -> None:
    """Stub, kernel, device tree and initramfs, each within its bounds, for the smallest memory."""
    assert layout.BOOT_MEMORY + layout.BOOT_MEMORY_BYTES < layout.UART
    assert layout.GIC_REDISTRIBUTORS + layout.MOST_CORES * layout.GIC_REDISTRIBUTOR_BYTES <= layout.MEMORY
    assert layout.GIC_DISTRIBUTOR + 0x10000 <= layout.GIC_REDISTRIBUTORS
    assert layout.KERNEL < layout.DEVICE_TREE < layout.INITRAMFS
    assert layout.DEVICE_TREE + layout.DEVICE_TREE_MOST_BYTES <= layout.INITRAMFS
    assert layout.INITRAMFS < layout.MEMORY + layout.LEAST_MEMORY_BYTES
