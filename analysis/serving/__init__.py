"""Serving runs: loading, latency percentiles, energy and cost."""

from gempim.analysis.serving.metrics import QUANTILES, Latency, latency, percentile
from gempim.analysis.serving.result import ServeResult, evaluate_serve
from gempim.analysis.serving.run import ServeRun, is_serve_run, load_serve_run

__all__ = [
    "QUANTILES",
    "Latency",
    "ServeResult",
    "ServeRun",
    "evaluate_serve",
    "is_serve_run",
    "latency",
    "load_serve_run",
    "percentile",
]
