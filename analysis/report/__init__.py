"""The report: one self-contained HTML file, and the same content as Markdown, CSV and JSON, with the figures as files."""

from gempim.analysis.report.write import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
