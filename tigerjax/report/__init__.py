"""Reports: one self-contained HTML page of a run or of a project's rounds."""

from tigerjax.report.run_page import render
from tigerjax.report.run_table import print_table

__all__ = ["print_table", "render"]
