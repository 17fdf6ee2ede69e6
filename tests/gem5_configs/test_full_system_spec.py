"""The rules of `--fs` that need no gem5: options, what is handed to the guest, device tree, checkpoints, ends."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spec import boot, devicetree, full_system, linux, options, payload
from spec.errors import SpecError
from spec.progress import PS_PER_S, IdleWatch

from gempim.workloads.linux import layout

from .conftest import make_elf


def _needs(tool: str, package: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"NOT RUN: no {tool} (Debian package {package})")
    return found


# Options -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "s.sh"
    path.write_text("true\n")
    return path


def _refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        options.parse(["--system", "sail", *argv])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_a_script_or_a_program(script: Path, elf: Path) -> None:
    """Either is enough; memory is 1 GiB unless it is said."""
    assert options.parse(["--fs", "--system", "sail", "--script", str(script)]).mem_bytes == 1 << 30
    assert options.parse(["--fs", "--system", "sail", "--binary", str(elf), "--args", "-x"]).args == ["-x"]
    assert options.parse(["--system", "sail", "--binary", str(elf)]).mem_bytes == 4 << 30


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--fs"], "either --script FILE or --binary GUEST"),
        (["--fs", "--script", "nothing.sh"], "--script nothing.sh: no such file"),
        (["--fs", "--script", "SCRIPT", "--binary", "ELF"], "either --script FILE or --binary GUEST"),
        (["--fs", "--script", "SCRIPT", "--env", "A=1"], "--env goes with --binary"),
        (["--fs", "--script", "SCRIPT", "--args", "1"], "--args goes with --binary"),
        (["--fs", "--script", "SCRIPT", "--hang-after", "0"], "--hang-after"),
        (["--script", "SCRIPT"], "--script: needs --fs"),
        (["--binary", "ELF", "--file", "x"], "--file: needs --fs"),
        (["--fs", "--boot-only", "x", "--script", "SCRIPT"], "--boot-only and --script"),
        (["--fs", "--binary", "X86"], "ELF machine 62"),
    ],
)
def test_contradictions_are_one_line(
    argv: list[str], message: str, script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "SCRIPT": str(script),
        "ELF": str(make_elf(tmp_path / "g.elf")),
        "X86": str(make_elf(tmp_path / "x.elf", machine=62)),
    }
    assert message in _refused(capsys, *(names.get(a, a) for a in argv))


# What the guest gets -------------------------------------------------------------------------------------------------


def test_cpio_reads_the_payload(tmp_path: Path) -> None:
    """The script and files of any size and mode, as the cpio program unpacks them."""
    tool = _needs("cpio", "cpio")
    rng = np.random.default_rng(11)
    contents = {f"f{i}": rng.bytes(int(rng.integers(0, 3_000_000))) for i in range(4)}
    files = []
    for name, data in contents.items():
        path = tmp_path / f"host-{name}"
        path.write_bytes(data)
        path.chmod(0o755 if name == "f1" else 0o644)
        files.append(payload.host_file(f"{path}={name}"))
    archive = tmp_path / "p.cpio"
    payload.write(str(archive), b"echo 1\n", files)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([tool, "-id"], stdin=archive.open("rb"), cwd=out, check=True, capture_output=True)
    assert (out / "script").read_bytes() == b"echo 1\n"
    for name, data in contents.items():
        assert (out / name).read_bytes() == data
        assert bool((out / name).stat().st_mode & 0o100) == (name == "f1")


def test_arguments_reach_the_program_as_they_are(tmp_path: Path) -> None:
    """The script that --binary makes, run by a real shell: spaces, quotes and dollars survive."""
    program = tmp_path / "p"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$X" "$@"; exit 7\n')
    program.chmod(0o755)
    args = ["a b", "c'd", "$HOME", '"', ""]
    script = tmp_path / "script"
    script.write_bytes(payload.command_script("p", args, ["X=1 '2"]))
    done = subprocess.run(["sh", str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["1 '2", *args]
    assert done.returncode == 7


@pytest.mark.parametrize("text", ["nothing", "HERE=script", "HERE=a/b", "HERE=.hidden"])
def test_files_that_cannot_be_handed_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    with pytest.raises(SpecError, match="--file"):
        payload.host_file(text.replace("HERE", str(path)))


def test_two_files_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    with pytest.raises(SpecError, match="another file has that name"):
        payload.check_names([payload.host_file(str(path)), payload.host_file(f"{path}=f")])


def test_the_hash_covers_script_names_and_contents(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    item = payload.host_file(str(path))
    base = full_system.Handed(b"x", [item], "n").sha256()
    assert base != full_system.Handed(b"y", [item], "n").sha256()
    assert base != full_system.Handed(b"x", [item._replace(name="g")], "n").sha256()
    path.write_text("2")
    assert base != full_system.Handed(b"x", [item], "n").sha256()


# Device tree ---------------------------------------------------------------------------------------------------------


def test_dtc_reads_the_device_tree(tmp_path: Path) -> None:
    """dtc decompiles the blob without a complaint, and finds memory, cores, initramfs and command line in it."""
    tool = _needs("dtc", "device-tree-compiler")
    tree = devicetree.machine(
        layout.addresses(), cores=4, memory_bytes=3 << 30, initramfs_bytes=12345, command_line="a=b c"
    )
    path = tmp_path / "m.dtb"
    path.write_bytes(devicetree.blob(tree))
    done = subprocess.run([tool, "-I", "dtb", "-O", "dts", path], capture_output=True, text=True, check=True)
    assert "ERROR" not in done.stderr
    assert done.stdout.count('device_type = "cpu"') == 4
    assert 'bootargs = "a=b c"' in done.stdout
    assert "reg = <0x00 0x80000000 0x00 0xc0000000>" in done.stdout
    start = layout.INITRAMFS
    assert f"linux,initrd-end = <0x00 {start + 12345:#x}>" in done.stdout
    again = subprocess.run(
        [tool, "-I", "dts", "-O", "dtb"], input=done.stdout.encode(), capture_output=True, check=True
    ).stdout
    second = subprocess.run([tool, "-I", "dtb", "-O", "dts"], input=again, capture_output=True, check=True).stdout
    assert second.decode() == done.stdout


# What gempim linux build made ----------------------------------------------------------------------------------------


def _linux(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    make_elf(folder / "kernel.elf", machine=changes.pop("machine", 183))
    (folder / "initramfs.cpio").write_bytes(b"070701")
    about = {
        "schema": 1,
        "kernel": "kernel.elf",
        "initramfs": "initramfs.cpio",
        "command_line": "quiet",
        "addresses": layout.addresses(),
        "codes": layout.codes(),
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("kernel.elf", "initramfs.cpio")
        },
        **changes,
    }
    (folder / "linux.json").write_text(json.dumps(about))
    return folder


def test_a_whole_folder_loads(tmp_path: Path) -> None:
    assert linux.load(str(_linux(tmp_path / "l"))).command_line == "quiet"


def test_no_kernel_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SpecError, match="gempim linux build"):
        linux.load(None)
    with pytest.raises(SpecError, match=r"--linux .*nothing.*gempim linux build"):
        linux.load(str(tmp_path / "nothing"))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    """A changed, missing or foreign kernel, another schema, a missing key."""
    folder = _linux(tmp_path / "l")
    (folder / "kernel.elf").write_bytes(b"other")
    with pytest.raises(SpecError, match=r"kernel\.elf: SHA-256 is"):
        linux.load(str(folder))
    (folder / "kernel.elf").unlink()
    with pytest.raises(SpecError, match=r"kernel\.elf: cannot be read"):
        linux.load(str(folder))
    with pytest.raises(SpecError, match="ELF machine 62, expected 183"):
        linux.load(str(_linux(tmp_path / "x", machine=62)))
    with pytest.raises(SpecError, match="schema 2, expected 1"):
        linux.load(str(_linux(tmp_path / "s", schema=2)))
    (folder / "linux.json").write_text("{")
    with pytest.raises(SpecError, match=r"linux\.json: cannot be read"):
        linux.load(str(folder))


# Boot checkpoints ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_belongs_to_kernel_cores_memory_and_gem5(tmp_path: Path) -> None:
    """Whatever changes one of them gets another folder; the same values get the same."""

    def place(**changes: Any) -> str:
        base = {"cores": 4, "mem_bytes": 1 << 30, "gem5_sha256": "g"}
        kernel = changes.pop("kernel", "quiet")
        same = boot.identity(linux.load(str(_linux(tmp_path / "l", command_line=kernel))), **{**base, **changes})
        return boot.place(same, str(tmp_path))

    places = [place(), place(cores=1), place(mem_bytes=2 << 30), place(gem5_sha256="h"), place(kernel="loud")]
    assert len(set(places)) == len(places)
    assert place() == places[0]


def test_a_failed_boot_leaves_nothing_and_shows_its_last_lines(tmp_path: Path) -> None:
    """`ensure` runs the command with gem5's options in second place and the checkpoint's folder last."""
    target = tmp_path / "boots" / "c1"
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho 'the reason'; exit 3\n")
    fails.chmod(0o755)
    with pytest.raises(SpecError, match=r"status 3(.|\n)*the reason"):
        boot.ensure(str(target), [str(fails), "run.py"], str(tmp_path / "log"))
    assert not target.exists()
    works = tmp_path / "works"
    works.write_text('#!/bin/sh\nfor last; do :; done; mkdir "$last"; echo 1 > "$last/m5.cpt"\n')
    works.chmod(0o755)
    assert boot.ensure(str(target), [str(works), "run.py"], str(tmp_path / "log"))
    assert boot.is_there(str(target))
    assert not boot.ensure(str(target), [str(fails), "run.py"], str(tmp_path / "log"))
    assert [p.name for p in target.parent.iterdir() if p.name.startswith(".boot")] == []


def test_only_the_cores_sections_are_renamed() -> None:
    lines = [
        "[board.processor.cores0.core]\n",
        "instCnt=1\n",
        "[board.processor.cores0.core.xc.0]\n",
        "[board.processor]\n",
        "# [board.processor.cores0]\n",
    ]
    assert full_system.renamed_sections(lines, "board.processor.cores", "board.processor.fast") == [
        "[board.processor.fast0.core]\n",
        "instCnt=1\n",
        "[board.processor.fast0.core.xc.0]\n",
        "[board.processor]\n",
        "# [board.processor.cores0]\n",
    ]


# Ends ----------------------------------------------------------------------------------------------------------------


def test_every_code_of_the_guest_means_something() -> None:
    """Against the codes that stub and agent are compiled with."""
    codes = layout.codes()
    assert full_system.end_of(layout.SCRIPT_ENDED, codes) == (0, "")
    assert full_system.end_of(layout.SCRIPT_ENDED + 3, codes) == (3, "the script ended with exit status 3")
    assert full_system.end_of(layout.SCRIPT_ENDED + 139, codes) == (139, "the script was killed by signal 11")
    assert full_system.end_of(layout.POWERED_OFF, codes) == (0, "")
    reset = full_system.end_of(layout.RESET, codes)
    assert reset is not None
    assert reset.status == full_system.RESET
    nothing = full_system.end_of(layout.NO_SCRIPT, codes)
    assert nothing is not None
    assert nothing.status == 2
    assert full_system.end_of(5, codes) is None


def test_the_kernels_own_words_are_shown_above_the_last_lines() -> None:
    """A panic is followed by a back trace that is longer than what is shown."""
    console = "\n".join(["starting", "[ 0.1] Kernel panic - not syncing: x", *(f"trace {i}" for i in range(30))])
    shown = full_system.last_lines(console).splitlines()
    assert shown[0] == "  [ 0.1] Kernel panic - not syncing: x"
    assert shown[-1] == "  trace 29"
    assert len(shown) == 9
    assert full_system.last_lines("") == "  (nothing)"


def test_a_machine_that_idles_for_the_bound_is_hung() -> None:
    """Half of the bound is not enough, work in between starts the count anew."""
    done = 0
    watch = IdleWatch(PS_PER_S, lambda: [5, done])
    watch.start(0)
    now = 0
    for _ in range(9):
        now += PS_PER_S // 10
        assert not watch.idle(now)
    done += 100_000_000
    now += PS_PER_S // 10
    assert not watch.idle(now)
    for _ in range(9):
        now += PS_PER_S // 10
        assert not watch.idle(now)
    now += PS_PER_S // 10
    assert watch.idle(now)


def test_linuxs_own_timers_are_no_work() -> None:
    """Eight million instructions a second on every core, as an idle Linux has them, do not keep a hung machine alive;
    a hundred million on one of them, as a program has that waits for memory, do."""

    def hung(rates: list[int]) -> bool:
        done = [0] * len(rates)
        watch = IdleWatch(PS_PER_S, lambda: list(done))
        watch.start(0)
        found = False
        for tick in range(1, 15):
            done = [before + rate // 10 for before, rate in zip(done, rates, strict=True)]
            found = found or watch.idle(tick * PS_PER_S // 10)
        return found

    assert hung([8_000_000] * 64)
    assert not hung([8_000_000] * 63 + [100_000_000])
