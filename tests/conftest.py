"""Settings of the whole test suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from gempim.doctor import find_gem5

# The same examples in every run, so that a red test is a change of the code; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gem5 need a gem5.opt on the PATH."""
    if find_gem5() is not None:
        return
    skip = pytest.mark.skip(reason="NOT RUN: no gem5.opt on the PATH")
    for item in items:
        if item.get_closest_marker("gem5") is not None:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Loud lines when tests were left out: what has not been checked inside gem5, or in a container."""
    skipped = sum("gem5" in report.keywords for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        why = "put a gem5.opt on the PATH" if find_gem5() is None else "each says above what it lacks"
        terminalreporter.write_line(
            f"NOT CHECKED INSIDE gem5: {skipped} test{'s' if skipped > 1 else ''} skipped; {why}",
            red=True,
            bold=True,
        )
    pages = [r for r in terminalreporter.stats.get("skipped", ()) if "test_report_browser.py" in r.nodeid]
    if pages:
        _, _, reason = pages[0].longrepr
        count = f"{len(pages)} test{'s' if len(pages) > 1 else ''} skipped"
        terminalreporter.write_line(f"NOT CHECKED IN A BROWSER: {count}; {reason}", red=True, bold=True)
    images = [r for r in terminalreporter.stats.get("skipped", ()) if "test_docker_images.py" in r.nodeid]
    if images:
        _, _, reason = images[0].longrepr
        terminalreporter.write_line(f"NOT CHECKED IN CONTAINERS: {reason}", red=True, bold=True)
