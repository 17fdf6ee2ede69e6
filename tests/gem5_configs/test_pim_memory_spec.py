"""Systems whose memory is the PIM: options, sizes, and where the xPU reads, without gem5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spec import geometry
from spec import options as command_line
from spec import system as systems
from spec.errors import SpecError

from gempim import _engine as engine

MIB = 1 << 20


def _duplex(**channels: int) -> dict[str, Any]:
    resolved = systems.with_host(systems.resolve("duplex"), systems.resolve("neoverse-n1"))
    resolved["sections"]["memory"].update(channels)
    return resolved


def _checked(elf: Path, *given: str, system: dict[str, Any] | None = None) -> Any:
    options = command_line.parse(["--system=duplex", f"--binary={elf}", *given])
    command_line.check_against(options, (system or _duplex())["sections"], "duplex")
    return options


def test_a_host_lends_its_cores_and_caches_only() -> None:
    resolved = _duplex()
    own, host = systems.resolve("duplex"), systems.resolve("neoverse-n1")
    assert resolved["host"] == "neoverse-n1"
    assert resolved["sections"] == {**own["sections"], "cpu": host["sections"]["cpu"], "llc": host["sections"]["llc"]}
    systems.check_buildable(resolved)
    with pytest.raises(SpecError, match="--host: system gpu-h100 has no section cpu"):
        systems.with_host(own, systems.resolve("gpu-h100"))


def test_memory_is_five_gib_unless_said(elf: Path) -> None:
    assert _checked(elf).mem_bytes == 5 << 30
    assert _checked(elf, system=_duplex(channels=16)).mem_bytes == 1 << 30
    assert _checked(elf, "--mem-size=640MiB").mem_bytes == 640 * MIB
    assert _checked(elf).pim_window_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--no-plugin"], "--no-plugin: its memory is in the plug-in"),
        (["--xpu-spaces=1"], "--xpu-spaces: needs --xpu-bytes"),
        (["--pim-window=1MiB"], "--pim-window 1MiB: expected a multiple of 64MiB"),
        (["--cores=65"], "has 64"),
    ],
)
def test_options_that_it_cannot_follow(elf: Path, given: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _checked(elf, *given)


def test_not_under_linux(elf: Path) -> None:
    options = command_line.parse(["--system=duplex", f"--binary={elf}", "--fs"])
    with pytest.raises(SpecError, match="Linux has no driver"):
        command_line.check_against(options, _duplex()["sections"], "duplex")


def test_only_such_systems_have_an_xpu(elf: Path) -> None:
    options = command_line.parse(["--system=sail", f"--binary={elf}", "--xpu-bytes=64"])
    with pytest.raises(SpecError, match="--xpu-bytes: system sail has no memory with PIM"):
        command_line.check_against(options, systems.resolve("sail")["sections"], "sail")


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1,,2"])
def test_spaces_are_numbers(elf: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(["--system=duplex", f"--binary={elf}", "--xpu-bytes=64", f"--xpu-spaces={text}"])
    assert "expected memory spaces such as 3 or 0,2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["duplex", "bankgroup-pim", "bank-pim"])
def test_sizes_are_the_models(name: str) -> None:
    """Spaces and their size: as the device model itself says for so many rows."""
    sections = systems.resolve(name)["sections"]
    g = geometry.pim_memory(sections, 5 << 30, 64 * MIB)
    model = {key: g.values[key] for key in (info["name"] for info in engine.logic_pim_param_info())}
    dram = {key: g.values[key] for key in (info["name"] for info in engine.dram_param_info())}
    assert set(g.values) == {*model, *dram, "stacks"}
    device = engine.LogicPim(model, dram, g.values["stacks"])
    assert (g.spaces, g.space_bytes) == (device.spaces, device.space_bytes)
    assert g.spaces * g.space_bytes == g.size_bytes == 5 << 30
    channels = g.values["stacks"] * g.values["pseudo_channels"]
    assert g.row_bytes == device.column_bytes * (g.values["row_bytes"] // 32) * channels
    assert g.space_bytes == g.row_bytes * 1024


@pytest.mark.parametrize(
    ("size", "window", "channels", "message"),
    [
        (4 << 30, 64, 80, "expected an even number of rows of all banks, which are 5242880 bytes"),
        (5 * MIB, 0, 80, "expected an even number of rows"),
        (160 << 30, 64, 80, "at most 16384"),
        (320 * MIB, 64, 80, "--pim-window: 67108864 bytes: at most half of a space, 41943040 bytes"),
        (1 << 30, 64, 15, "memory.channels = 15: 30 pseudo-channels are no whole number of stacks"),
    ],
)
def test_a_memory_that_cannot_be(size: int, window: int, channels: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        geometry.pim_memory(_duplex(channels=channels)["sections"], size, window * MIB)


def _locations(g: geometry.PimGeometry, stream: geometry.Stream, count: int) -> list[tuple[int, ...]]:
    """Fields (space, row, column, bank in bundle, bank group, channel) of the first requests."""
    channels = g.values["stacks"] * g.values["pseudo_channels"]
    out = []
    for i in range(count):
        at = i * stream.request_bytes
        region_bytes = stream.block_bytes * stream.blocks * stream.columns
        region, inside = divmod(at, region_bytes)
        block, within = divmod(inside, stream.block_bytes)
        line, column = divmod(block, stream.columns)
        start = stream.ranges[region % len(stream.ranges)][0] + region // len(stream.ranges) * region_bytes
        rest = (start + (column * stream.blocks + line) * stream.block_bytes + within) // stream.request_bytes
        fields = []
        for size in (channels, 4, 2, 32, g.values["rows"]):
            rest, digit = divmod(rest, size)
            fields.append(digit)
        out.append((rest, *reversed(fields)))
    return out


def test_the_xpu_walks_as_in_the_embedded_engine() -> None:
    """Channels, bank groups, columns, banks of the bundle, spaces, rows, as XpuStream of work.hh in each channel."""
    g = geometry.pim_memory(_duplex(channels=16)["sections"], 1 << 30, 64 * MIB)
    stream = geometry.xpu_stream(g, 32 * 32 * 4, [2, 0])
    expected = [
        (space, row, column, bank, group, channel)
        for row in (512, 513)
        for space in (2, 0)
        for bank in range(2)
        for column in range(32)
        for group in range(4)
        for channel in range(32)
    ]
    assert _locations(g, stream, len(expected)) == expected


@pytest.mark.parametrize(
    ("stream_bytes", "spaces", "message"),
    [
        (5120 * 3 + 32, [3], "--xpu-bytes: expected a multiple of 5120"),
        (5120, [4], "--xpu-spaces: expected different ones of 0 to 3"),
        (5120, [1, 1], "--xpu-spaces: expected different ones"),
    ],
)
def test_a_stream_that_cannot_be(stream_bytes: int, spaces: list[int], message: str) -> None:
    g = geometry.pim_memory(_duplex()["sections"], 5 << 30, 64 * MIB)
    with pytest.raises(SpecError, match=message):
        geometry.xpu_stream(g, stream_bytes, spaces)
