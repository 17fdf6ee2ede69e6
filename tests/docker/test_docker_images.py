"""The images are built and run by docker/test.sh, where a Docker engine is. What it checks, it prints line by line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = os.environ.get("DOCKER", "docker")


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _base_image() -> str:
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.slow
def test_the_images_build_and_run() -> None:
    """Dockerfile.gem5 only with GEM5_IMAGE in the environment: an image of gigabytes is not pulled unasked."""
    if not _answers(DOCKER, "info"):
        pytest.skip(f"NOT RUN: no Docker engine answers `{DOCKER} info`")
    if not (_answers(DOCKER, "compose", "version") or shutil.which("docker-compose")):
        pytest.skip("NOT RUN: there is a Docker engine, and no docker compose")
    options = []
    base = _base_image()
    if not _answers(DOCKER, "image", "inspect", base) and not _answers(DOCKER, "pull", base):
        if os.getuid() != 0 or shutil.which("debootstrap") is None:
            pytest.skip(f"NOT RUN: the image {base} is not to be had, and there is no debootstrap (as root) to make it")
        options.append("--import")
    if not os.environ.get("GEM5_IMAGE"):
        options.append("--no-gem5")
    if not _answers(DOCKER, "network", "inspect", "bridge"):
        pytest.skip("NOT RUN: this Docker engine has no bridge network; docker/test.sh runs there with BUILD_OPTIONS")
    done = subprocess.run([ROOT / "docker/test.sh", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^docker/test.sh: \d+ checks passed$", done.stdout, re.MULTILINE)
