"""Command line: ``python -m gempim.patterns record --out FILE`` makes a statistics file again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run it; returns the exit status (2: bad input, said on stderr)."""
    parser = argparse.ArgumentParser(
        prog="python -m gempim.patterns",
        epilog="example: python -m gempim.patterns record --out smollm2-135m.toml",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="measure pattern reuse on a model's real activations")
    record.add_argument("--gguf", type=Path, help='arch "llama" GGUF (default: SmolLM2-135M-Instruct, downloaded once)')
    record.add_argument("--text", type=Path, help="UTF-8 text to run on (default: the shipped passage)")
    record.add_argument("--out", type=Path, required=True, help="statistics file to write; its stem is its name")
    arguments = parser.parse_args(argv)
    from gempim.models.fetch import FetchError
    from gempim.patterns.record import main_record

    try:
        main_record(arguments)
    except (ValueError, OSError, FetchError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
