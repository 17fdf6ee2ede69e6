"""The report: one self-contained HTML file, and the same content as Markdown, CSV and JSON, with figure files."""

from gempim.analysis.report.write import write_report

__all__ = ["write_report"]
