"""What the files of docker/ promise and a reader can check without an engine: pins, users, ports, the build context."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile in order, as (NAME, rest), lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text())
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def _args(path: Path) -> dict[str, str]:
    found = (rest.partition("=") for name, rest in _instructions(path) if name == "ARG" and "=" in rest)
    return {name: value.strip('"') for name, _, value in found}


def test_there_are_two_dockerfiles() -> None:
    assert [p.name for p in DOCKERFILES] == ["Dockerfile", "Dockerfile.gem5"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_every_image_underneath_has_a_version(path: Path) -> None:
    stages: set[str] = set()
    for name, rest in _instructions(path):
        if name != "FROM":
            continue
        image, *alias = rest.split()
        if image.startswith("${"):
            image = _args(path)[image[2:-1]]
            tag = image.rpartition("/")[2].partition(":")[2]
            assert re.search(r"\d", tag), f"{image}: a tag that moves, or none"
            assert "latest" not in tag
        else:
            assert image in stages, f"{image}: no stage of this file, and its version cannot be chosen"
        stages |= set(alias[1:])
    assert any(name == "FROM" for name, _ in _instructions(path))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_everything_installed_is_pinned(path: Path) -> None:
    """pip: by hash, from a file of docker/requirements, except the wheel made there. apt: by version; where the image
    underneath can be any distribution, the versions are written down.
    """
    commands = [c for name, rest in _instructions(path) if name == "RUN" for c in re.split(r"&&|\|\||;", rest)]
    installs = [c for c in commands if re.search(r"\bpip3? install\b", c)]
    assert installs
    for command in installs:
        own = re.search(r"--no-deps --no-index \"?/wheel/gempim-\$\{VERSION\}-", command)
        hashed = re.search(r"--require-hashes --only-binary :all: -r \S*/requirements/(\w+\.txt)$", command.strip())
        assert own or hashed, command
        assert own or (DOCKER / "requirements" / hashed[1]).is_file()  # type: ignore[index]
    for command in (c for c in commands if re.search(r"\bapt-get install\b", c)):
        assert "--no-install-recommends" in command
        packages = [w for w in command.partition(" install ")[2].split() if not w.startswith("-")]
        assert packages
        if path.name == "Dockerfile.gem5":
            assert any("dpkg-query -W > /opt/gempim/packages.txt" in c for c in commands)
        else:
            assert all(re.fullmatch(r"'[\w+.-]+=[\w:.]+[-.]\*'", p) for p in packages), packages
    for command in commands:
        assert not re.search(r"\b(curl|wget|npm|gem|go get|scons)\b", command), command


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_no_image_runs_as_root(path: Path) -> None:
    """The user in force at every ENTRYPOINT is a number (Kubernetes can check that) and not 0."""
    user, checked = "", 0
    for name, rest in _instructions(path):
        if name == "USER":
            user = rest
        elif name == "FROM":
            user = ""
        elif name == "ENTRYPOINT":
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"{rest}: runs as {user or 'root'}"
            checked += 1
    assert checked
    assert _instructions(path)[-1][0] in ("CMD", "ENTRYPOINT", "FROM")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_images_say_their_version_and_revision(path: Path) -> None:
    labels = " ".join(rest for name, rest in _instructions(path) if name == "LABEL")
    assert 'org.opencontainers.image.version="${VERSION}"' in labels
    assert 'org.opencontainers.image.revision="${REVISION}"' in labels
    assert _args(path)["VERSION"] == PROJECT["project"]["version"]
    assert "REVISION" in _args(path)


def _pins(name: str) -> list[tuple[Requirement, int]]:
    """Requirements of a file of docker/requirements, with the number of their hashes."""
    text = re.sub(r"\\\n", " ", (DOCKER / "requirements" / name).read_text())
    out = []
    for line in (raw.strip() for raw in text.splitlines()):
        if line and not line.startswith("#"):
            out.append((Requirement(line.partition("--hash=")[0].strip()), line.count("--hash=sha256:")))
    return out


@pytest.mark.parametrize("name", ["run.txt", "build.txt", "notebook.txt"])
def test_pins_are_versions_with_hashes(name: str) -> None:
    pins = _pins(name)
    assert pins
    for requirement, hashes in pins:
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert hashes, f"{requirement}: no hash"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_pins_are_what_the_project_asks_for(python: str) -> None:
    """A dependency added to pyproject.toml, or a bound raised, needs docker/lock.sh."""
    wanted = {
        "run.txt": PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dask"],
        "build.txt": PROJECT["build-system"]["requires"],
    }
    environment = {"python_version": python, "python_full_version": f"{python}.4", "sys_platform": "linux"}
    for name, requirements in wanted.items():
        pins = [p for p, _ in _pins(name) if p.marker is None or p.marker.evaluate(environment)]
        by_name = {p.name.lower(): Version(next(iter(p.specifier)).version) for p in pins}
        assert len(by_name) == len(pins), "a package twice for one Python"
        for text in requirements:
            requirement = Requirement(text)
            assert requirement.name.lower() in by_name, f"{name}: no {requirement.name}: run docker/lock.sh"
            version = by_name[requirement.name.lower()]
            assert requirement.specifier.contains(version), f"{name}: {requirement} is {version}: run docker/lock.sh"


def test_a_notebook_has_the_libraries_of_the_other_images() -> None:
    """Two versions of one library would make other numbers in a notebook than on the command line."""
    run = {(p.name.lower(), str(p.marker)): str(p.specifier) for p, _ in _pins("run.txt")}
    shared = [(p, run[key]) for p, _ in _pins("notebook.txt") if (key := (p.name.lower(), str(p.marker))) in run]
    assert len(shared) > 5
    for requirement, specifier in shared:
        assert str(requirement.specifier) == specifier


def _ignored(path: str, patterns: list[str]) -> bool:
    """Whether a .dockerignore leaves a file out: the last pattern that matches it or a folder above it decides."""
    parts = path.split("/")
    candidates = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    ignored = False
    for pattern in patterns:
        keep = pattern.startswith("!")
        regex = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(regex, c) for c in candidates):
            ignored = not keep
    return ignored


def test_only_sources_get_into_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    secret = (
        *(".git/config", ".venv/bin/python", ".env", "id_rsa", "gempim/.env"),
        *("runs/x/manifest.json", "out/report.html", "build/x/CMakeCache.txt", "tests/conftest.py"),
        *("gempim/__pycache__/cli.pyc", "gempim/_engine.so"),
    )
    for path in secret:
        assert _ignored(path, patterns), f"{path} gets into a build"
    for dockerfile in DOCKERFILES:
        for name, rest in _instructions(dockerfile):
            words = [w for w in rest.split() if not w.startswith("--")]
            if name != "COPY" or "--from=" in rest:
                continue
            for source in words[:-1]:
                assert (ROOT / source).exists(), f"{dockerfile.name}: {source}"
                files = [p for p in (ROOT / source).rglob("*.py")] if (ROOT / source).is_dir() else [ROOT / source]
                for file in (f for f in files if "__pycache__" not in f.parts):
                    assert not _ignored(str(file.relative_to(ROOT)), patterns), f"{file} does not get into a build"


def _services() -> dict[str, Any]:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(services) == {"demo", "sweep", "notebook", "scheduler", "worker", "cluster-sweep"}
    return dict(services)


def test_services_are_closed() -> None:
    """No port but on the loopback address, none at all of Dask, nothing writable but /tmp and /out, no privileges."""
    for name, service in _services().items():
        for port in service.get("ports", []):
            assert isinstance(port, str)
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to the network"
        assert "ports" not in service or name == "notebook", f"{name}: publishes a port"
        assert service.get("network_mode") in (None, "none"), f"{name}: {service.get('network_mode')}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert re.search(r"^\$\{GEMPIM_UID:-[1-9]\d*\}", service["user"]), name
        for volume in service.get("volumes", []):
            assert volume.endswith((":/out", ":ro")), f"{name}: {volume}"
    assert yaml.safe_load((DOCKER / "compose.yaml").read_text())["networks"]["cluster"]["internal"] is True


def test_the_notebook_has_no_token_that_everybody_knows() -> None:
    assert _services()["notebook"]["environment"] == ["JUPYTER_TOKEN"], "passed on, with no default"
    text = (DOCKER / "notebook.sh").read_text()
    assert "unset JUPYTER_TOKEN" in text
    assert not re.search(r"token\s*=", text, re.IGNORECASE)


def test_services_wait_for_what_they_need_and_say_when_they_are_well() -> None:
    services = _services()
    for name in ("worker", "cluster-sweep"):
        assert services[name]["depends_on"] == {"scheduler": {"condition": "service_healthy"}}
    assert {name for name, s in services.items() if "healthcheck" in s} == {"scheduler", "notebook"}
    assert re.fullmatch(r"\$\{GEMPIM_WORKERS:-\d+\}", services["worker"]["deploy"]["replicas"])


def test_scripts_parse_and_name_no_package_registry() -> None:
    """Mirrors and registries are the machine's own settings; the one address is gem5's source."""
    for path in (p for p in sorted(DOCKER.rglob("*")) if p.is_file()):
        text = path.read_text()
        hosts = set(re.findall(r"https?://([^\s/'\"`:]+)", text))
        assert hosts <= {"github.com", "127.0.0.1"}, f"{path}: {hosts}"
        if path.suffix == ".sh":
            subprocess.run(["sh", "-n", path], check=True)
            assert path.stat().st_mode & 0o111, f"{path} cannot be run"
