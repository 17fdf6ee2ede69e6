"""Does a data file with a mistake in it fail with the file, the key and the remedy, and never pass silently?"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempim.quantity import FIELDS, KINDS, DataError, Quantity, check_keys, load_toml, parse_quantity

GOOD: dict[str, Any] = {"value": 16, "unit": "cores", "scope": "socket", "source": "SAIL, section 4", "kind": "paper"}


def parse(raw: object, **options: Any) -> Quantity:
    return parse_quantity(raw, file="systems/n1.toml", key="cpu.cores", **options)


def test_number_keeps_every_field() -> None:
    assert parse(GOOD) == Quantity(16, "cores", "socket", "SAIL, section 4", "paper")


@pytest.mark.parametrize("field", FIELDS)
def test_each_missing_field_is_named(field: str) -> None:
    with pytest.raises(DataError, match=rf"systems/n1.toml: cpu.cores: missing key '{field}'"):
        parse({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize("field", FIELDS[1:])
@pytest.mark.parametrize("bad", ["", "   ", 3, None, ["x"]])
def test_each_field_must_be_text(field: str, bad: object) -> None:
    with pytest.raises(DataError, match=rf"systems/n1.toml: cpu.cores.{field}: expected text"):
        parse({**GOOD, field: bad})


@pytest.mark.parametrize("bare", [16, 2.5, None, [16], 0])
def test_bare_number_is_refused(bare: object) -> None:
    with pytest.raises(DataError, match=r"cpu\.cores: expected a table"):
        parse(bare)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, None])
def test_value_must_be_finite_and_plain(value: object) -> None:
    with pytest.raises(DataError, match=r"cpu.cores.value: expected"):
        parse({**GOOD, "value": value})


def test_unknown_field_suggests_the_right_one() -> None:
    with pytest.raises(DataError, match=r"unknown key 'sorce'; did you mean 'source'\? \(allowed: value, unit, "):
        parse({**GOOD, "sorce": "x"})


def test_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(DataError, match=r"unknown kind 'mesured'; did you mean 'measured'\?.*paper, standard, code"):
        parse({**GOOD, "kind": "mesured"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken(kind: str) -> None:
    assert parse({**GOOD, "kind": kind}).kind == kind


def test_unit_is_checked() -> None:
    assert parse(GOOD, unit="cores").unit == "cores"
    assert parse(GOOD, unit=("threads", "cores")).unit == "cores"
    with pytest.raises(DataError, match=r"cpu.cores.unit: expected 'ps' or 'ns', got 'cores'"):
        parse(GOOD, unit=("ps", "ns"))


@pytest.mark.parametrize("plain", ["llama", True, False])
def test_text_and_switch_may_stand_alone(plain: str | bool) -> None:
    assert parse(plain).value == plain
    assert parse({"value": plain, "source": "why"}).source == "why"
    with pytest.raises(DataError, match="missing key 'source'"):
        parse({"value": plain})


def test_text_where_a_unit_is_needed_is_refused() -> None:
    with pytest.raises(DataError, match=r"cpu.cores.unit: expected 'cores', got ''"):
        parse("sixteen", unit="cores")


def test_as_int_and_as_float_never_round() -> None:
    assert Quantity(4.0, "", "", "", "choice").as_int() == 4
    assert Quantity(4, "", "", "", "choice").as_float() == 4.0
    for value in (2.5, True, "4"):
        with pytest.raises(DataError, match="expected a whole number"):
            Quantity(value, "", "", "", "choice").as_int()
    for value in (True, "4"):
        with pytest.raises(DataError, match="expected a number"):
            Quantity(value, "", "", "", "choice").as_float()


def test_toml_errors_name_file_and_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("a = 1\nb = = 2\n")
    with pytest.raises(DataError, match=r"broken.toml: not valid TOML: .*line 2"):
        load_toml(broken)
    broken.write_bytes(b"a = 1\n\nb = '\xff'\n")
    with pytest.raises(DataError, match=r"broken.toml: line 3: not UTF-8"):
        load_toml(broken)
    with pytest.raises(DataError, match=r"none.toml: cannot be read: No such file"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(DataError, match="cannot be read"):
        load_toml(tmp_path)
    broken.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(DataError, match=r"broken.toml: not valid TOML: nested too deeply"):
        load_toml(broken)
    broken.write_text("a = { value = 3 }\n")
    assert load_toml(broken) == {"a": {"value": 3}}


def test_check_keys_names_what_is_missing_and_unknown() -> None:
    check_keys({"a": 1, "c": 2}, file="f", required=("a",), optional=("b", "c"))
    with pytest.raises(DataError, match=r"f: t: missing keys 'a', 'b' \(required: a, b\)"):
        check_keys({}, file="f", key="t", required=("a", "b"))
    with pytest.raises(DataError, match=r"f: unknown key 'layer'; did you mean 'layers'\? \(allowed: layers\)"):
        check_keys({"layer": 1}, file="f", required=("layers",))


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.printable, max_size=8))


@given(st.one_of(scalars, st.lists(scalars), st.dictionaries(st.sampled_from([*FIELDS, "x"]), scalars)))
def test_any_value_parses_or_raises_data_error(raw: object) -> None:
    """Whatever a TOML file can hold gives a Quantity with provenance or a DataError that names file and key."""
    message = ""
    try:
        quantity = parse(raw)
    except DataError as error:
        message = str(error)
    if message:
        assert "systems/n1.toml: cpu.cores" in message
        return
    assert quantity.kind in KINDS
    if not isinstance(quantity.value, bool | str):
        assert isinstance(raw, dict)
        assert set(raw) == set(FIELDS)
        assert all(str(raw[name]).strip() for name in FIELDS[1:])
