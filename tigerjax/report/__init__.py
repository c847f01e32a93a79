"""A run's report.json as one self-contained HTML page and as a terminal table."""

from tigerjax.report.page import render
from tigerjax.report.table import print_table

__all__ = ["print_table", "render"]
