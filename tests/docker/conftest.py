"""One loud line when the images were not built: then nothing here has been checked in a container."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if "test_docker_images.py" in r.nodeid]
    if skipped:
        reason = str(skipped[0].longrepr[2] if isinstance(skipped[0].longrepr, tuple) else skipped[0].longrepr)
        terminalreporter.write_line(f"NOT CHECKED IN CONTAINERS: {reason}", red=True, bold=True)
