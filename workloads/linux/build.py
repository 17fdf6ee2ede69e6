"""Makes what a boot in gem5 needs, and keeps it in the cache under the hash of all that goes into it.

`kernel.elf`: boot stub and kernel; `initramfs.cpio`: busybox, /init and the agent; `linux.json`: addresses, kernel
command line and hashes, for gem5's script.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

from gempim.cache import cache_dir, cached_folder, point_to
from gempim.calibrate.toolchain import ToolError, run
from gempim.quantity import DataError
from gempim.workloads.linux import cpio, debian, image, layout
from gempim.workloads.linux.deb import read_file

LINUX = Path(__file__).resolve().parent
SCHEMA = 1
COMPILER = "aarch64-linux-gnu-gcc"
KERNEL, INITRAMFS, ABOUT = "kernel.elf", "initramfs.cpio", "linux.json"

_NOT_CALLED = (
    *("cubictcp_register", "bpf_rstat_kfunc_init", "bpf_prog_test_run_init", "kfunc_init", "bpf_tcp_ca_kfunc_init"),
    *("bpf_key_sig_kfuncs_init", "load_system_certificate_list", "init_ima", "init_evm", "digsig_init"),
)
"""Functions of the kernel's own start that it leaves out."""

COMMAND_LINE = (
    f"console=ttyAMA0 earlycon=pl011,{layout.UART:#x}",
    "quiet loglevel=4",
    "rdinit=/init",
    # Reset when the kernel panics: the boot stub then ends the simulation.
    "panic=-1 oops=panic",
    # Nobody is to be kept out, and every one of these costs boot time.
    "lsm= audit=0 mitigations=off kpti=off init_on_alloc=0 rodata=off nokaslr norandmaps",
    "cryptomgr.notests random.trust_bootloader=on cgroup_disable=memory nowatchdog cma=0 rcupdate.rcu_expedited=1",
    # A sixth of the boot is reading type information that only BPF programs need.
    f"initcall_blacklist={','.join(_NOT_CALLED)}",
    # gem5 needs the extension (gem5_configs/components/cores.py), but a Neoverse-N1 has none.
    "arm64.nopauth",
    # Other sources of time: none of them is there.
    "clocksource=arch_sys_counter",
)

APPLETS = (
    *("[", "ash", "awk", "basename", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "df", "dirname", "dmesg"),
    *("echo", "env", "expr", "false", "find", "free", "grep", "head", "hexdump", "kill", "killall", "ln", "ls"),
    *("md5sum", "mkdir", "mount", "mv", "nice", "nproc", "od", "poweroff", "printf", "ps", "pwd", "reboot", "rm"),
    *("sed", "seq", "sh", "sha256sum", "sleep", "sort", "stty", "sync", "tail", "taskset", "tee", "test", "time"),
    *("timeout", "top", "touch", "tr", "true", "umount", "uname", "uniq", "vi", "wc", "which", "xargs", "yes"),
)
"""What scripts find in /bin; every other one is `busybox NAME`."""


def _inputs() -> list[Path]:
    return sorted(path for path in LINUX.iterdir() if path.is_file() and path.suffix in (".py", ".S", ".c", ""))


def _key(compiler: str, kernel: Path | None) -> str:
    digest = hashlib.sha256(f"{compiler}\0".encode())
    if kernel is not None:
        digest.update(hashlib.sha256(kernel.read_bytes()).digest())
    for package in debian.PACKAGES:
        digest.update(package.sha256.encode())
    for path in _inputs():
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _compile_stub(scratch: Path) -> bytes:
    out = scratch / "boot.elf"
    flags = ["-nostdlib", "-static", "-Wl,--build-id=none", f"-Wl,-Ttext={layout.BOOT_MEMORY:#x}", "-Wl,-N"]
    run([COMPILER, *flags, *layout.defines(), LINUX / "boot.S", "-o", out], why="assembling boot.S")
    stub = _loaded(out.read_bytes())
    if len(stub) > layout.BOOT_MEMORY_BYTES:
        raise ToolError(f"boot.S: {len(stub)} bytes; layout.py gives it {layout.BOOT_MEMORY_BYTES}")
    return stub


def _loaded(elf: bytes) -> bytes:
    """The one segment of a program that we have linked."""
    offset, count = int.from_bytes(elf[32:40], "little"), int.from_bytes(elf[56:58], "little")
    for i in range(count):
        kind, _, at, _, _, size = struct.unpack_from("<IIQQQQ", elf, offset + 56 * i)
        if kind == 1 and size:
            return elf[at : at + size]
    raise ToolError("boot.S: the linker left no segment")


def _compile_agent(scratch: Path) -> bytes:
    out = scratch / "agent"
    flags = ["-std=gnu11", "-O2", "-static", "-s", "-D_GNU_SOURCE", "-Wl,--build-id=none"]
    run(
        [COMPILER, *flags, f"-ffile-prefix-map={LINUX}=linux", *layout.defines(), LINUX / "agent.c", "-o", out],
        why="compiling agent.c",
    )
    return out.read_bytes()


def initramfs_entries(busybox: bytes, agent: bytes) -> list[cpio.Entry]:
    """What is in the initramfs."""
    folders = [cpio.folder(name) for name in ("bin", "dev", "proc", "sbin", "sys", "tmp", "work")]
    return [
        *folders,
        cpio.character_device("dev/console", 5, 1),
        cpio.character_device("dev/null", 1, 3),
        cpio.file("bin/busybox", busybox, executable=True),
        *(cpio.link(f"bin/{name}", "busybox") for name in APPLETS),
        cpio.file("sbin/gempim-agent", agent, executable=True),
        cpio.file("init", (LINUX / "init").read_bytes(), executable=True),
    ]


def _make(out: Path, scratch: Path, mirror: str | None, packages: Path | None, own: Path | None) -> None:
    if own is not None:
        (busybox_package,) = debian.packages((debian.BUSYBOX,), mirror, packages)
        kernel, where = own.read_bytes(), f"--kernel {own}"
    else:
        kernel_package, busybox_package = debian.packages(debian.PACKAGES, mirror, packages)
        kernel, where = read_file(kernel_package, debian.KERNEL_FILE), f"{kernel_package.name}: {debian.KERNEL_FILE}"
    size = image.check_kernel(kernel, where)
    if layout.KERNEL + size > layout.DEVICE_TREE:
        raise ToolError(f"the kernel takes {size} bytes; layout.py leaves {layout.DEVICE_TREE - layout.KERNEL}")
    segments = (image.Segment(layout.BOOT_MEMORY, _compile_stub(scratch)), image.Segment(layout.KERNEL, kernel))
    (out / KERNEL).write_bytes(image.wrap(layout.BOOT_MEMORY, segments))
    entries = initramfs_entries(read_file(busybox_package, debian.BUSYBOX_FILE), _compile_agent(scratch))
    with (out / INITRAMFS).open("wb") as stream:
        cpio.write(stream, entries)
    about = {
        "schema": SCHEMA,
        "kernel": KERNEL,
        "kernel_release": debian.KERNEL_RELEASE if own is None else None,
        "initramfs": INITRAMFS,
        "command_line": " ".join(COMMAND_LINE),
        "addresses": layout.addresses(),
        "codes": layout.codes(),
        "sha256": {
            KERNEL: hashlib.sha256((out / KERNEL).read_bytes()).hexdigest(),
            INITRAMFS: hashlib.sha256((out / INITRAMFS).read_bytes()).hexdigest(),
        },
        "packages": {
            p.name: {"version": p.version, "sha256": p.sha256}
            for p in ((debian.BUSYBOX,) if own is not None else debian.PACKAGES)
        },
    }
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def build_linux(mirror: str | None = None, packages: Path | None = None, kernel: Path | None = None) -> Path:
    """The folder with KERNEL, INITRAMFS and ABOUT, made unless it is in the cache (some seconds, 22 MB of download).

    `mirror` and `packages` as in :func:`debian.packages`; `kernel` is an arm64 Image in the place of Debian's. Raises
    DataError when the cross compiler or a package is missing, a checksum differs, the kernel is none for this machine
    or a step fails; it says what to do.
    """
    if kernel is not None:
        if not kernel.is_file():
            raise DataError(f"--kernel {kernel}: no such file")
        image.check_kernel(kernel.read_bytes(), f"--kernel {kernel}")
    if shutil.which(COMPILER) is None:
        raise DataError(
            f"building Linux for gem5: {COMPILER} is not on the PATH; install the Debian package gcc-aarch64-linux-gnu"
        )
    try:
        compiler = run([COMPILER, "--version"], why="version of the cross compiler").splitlines()[0]
        target = cache_dir() / "linux" / f"aarch64-{_key(compiler, kernel)}"
        if packages is not None:
            wanted = debian.PACKAGES if kernel is None else (debian.BUSYBOX,)
            debian.packages(wanted, mirror, packages)  # what is named is checked, needed or not
        cached_folder(target, lambda out: _make(out, out.parent, mirror, packages, kernel))
        # The newest one is where gem5's script looks without being told.
        point_to(target.parent / "current", target)
        return target
    except (OSError, ToolError) as error:
        raise DataError(f"building Linux for gem5: {error}") from error
