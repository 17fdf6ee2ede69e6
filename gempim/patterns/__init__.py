"""Pattern reuse of SAIL's Pattern Reuse Table, measured on the activations of a real model.

`load_patterns` gives the shipped statistics; ``python -m gempim.patterns record`` makes them again.
"""

from gempim.patterns.stats import PatternError, PatternStats, load_patterns, load_patterns_file

__all__ = ["PatternError", "PatternStats", "load_patterns", "load_patterns_file"]
