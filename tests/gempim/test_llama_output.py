"""The guest's stdout: what is read, and that anything else is an error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gempim.engines.llama.output import Pass, Product, parse_output, read_output
from gempim.quantity import DataError

FILE = Path("guest.out")

OUTPUT = """\
model Smol LM.gguf arch llama layers 2 embedding 576 vocab 512 bytes 8149248 params 14455872
prompt 3 1 259 293
roi 0 load
roi 1 prefill start
roi 2 prefill layer 0
pass 0 tokens 3 ns 7374309
token 0 182
pass 1 tokens 1 ns 2126078
token 1 44
product ffn_up q4_1 commands 12 macs 34 weight_bytes 56
product ffn_up q6_K commands 1 macs 2 weight_bytes 3
text "a\\n\\"b\\"\\u00e9 \\udcc3"
"""


def test_everything_is_read() -> None:
    out = parse_output(OUTPUT, FILE)
    assert (out.model.file, out.model.layers, out.model.vocab, out.model.params) == ("Smol LM.gguf", 2, 512, 14455872)
    assert out.prompt == (1, 259, 293)
    assert out.regions == {0: "load", 1: "prefill start", 2: "prefill layer 0"}
    assert out.tokens == (182, 44)
    assert out.passes == (Pass(0, 3, 7374309), Pass(1, 1, 2126078))
    assert out.products == (Product("ffn_up", "q4_1", 12, 34, 56), Product("ffn_up", "q6_K", 1, 2, 3))
    assert out.text == 'a\n"b"é \N{REPLACEMENT CHARACTER}', "half a character is shown as one that is damaged"


def _line(number: int, text: str) -> str:
    lines = OUTPUT.splitlines()
    lines[number - 1] = text
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "model x.gguf arch llama layers two", "line 1: expected 'model FILE arch A layers N"),
        (1, OUTPUT.splitlines()[0].replace("layers 2", "layers 0"), "line 1: expected numbers above 0"),
        (2, "prompt 4 1 259 293", "line 2: expected 'prompt COUNT ID ID ...' with as many ids as it counts"),
        (2, "model y arch z layers 1 embedding 1 vocab 1 bytes 1 params 1", "line 2: a second line 'model'"),
        (4, "roi 2 prefill start", "line 4: region 2, expected 1"),
        (5, "roi two", "line 5: expected 'roi INDEX LABEL'"),
        (6, "pass 0 tokens 4 ns 1", "line 6: pass 0 has 4 tokens, expected 3"),
        (7, "token 1 182", "line 7: token 1, expected 0"),
        (8, "pass 2 tokens 1 ns 3", "line 8: pass 2, expected 1"),
        (9, "token 1 -4", "line 9: expected 'token NUMBER ID'"),
        (10, "product ffn_up q4_1 commands 12", "line 10: expected 'product NAME TYPE commands N"),
        (11, "product ffn_up q4_1 commands 1 macs 1 weight_bytes 1", "line 11: product ffn_up q4_1 a second time"),
        (11, "Segmentation fault", r"line 11: expected model, prompt, .* first, got 'Segmentation fault'"),
        (11, 'text "a"', "line 12: nothing is expected after the text"),
        (12, "text 5", "line 12: text: expected a JSON string"),
        (12, 'text "a', "line 12: text: expected a JSON string"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: int, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"guest.out: {message}"):
        parse_output(_line(line, text), FILE)


def test_what_is_missing_is_named() -> None:
    def without(*words: str) -> str:
        return "".join(line + "\n" for line in OUTPUT.splitlines() if line.split()[0] not in words)

    for word in ("model", "text"):
        with pytest.raises(DataError, match=f"guest.out: the guest printed no line '{word}'"):
            parse_output(without(word), FILE)
    with pytest.raises(DataError, match="no line 'token'"):
        parse_output(without("token"), FILE)
    assert parse_output(without("text"), FILE, complete=False).text is None
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_output(FILE)


def test_a_restored_run_goes_on_from_what_was_printed_before(tmp_path: Path) -> None:
    at = OUTPUT.index("roi 1")
    (tmp_path / "before").write_text(OUTPUT[:at])
    (tmp_path / "after").write_text(OUTPUT[at:])
    assert read_output(tmp_path / "after", before=tmp_path / "before").tokens == (182, 44)
    with pytest.raises(DataError, match="line 1: region 1, expected 0"):
        read_output(tmp_path / "after", complete=False)
