"""Reports: one self-contained HTML page of a run or of a project's rounds."""

from tigerjax.report.page import render
from tigerjax.report.table import print_table

__all__ = ["print_table", "render"]
