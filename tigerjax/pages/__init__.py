"""What every page and table for people is made of: templates, one style sheet, charts, and safe text."""

from tigerjax.pages.render import draw, write
from tigerjax.pages.tables import Table

__all__ = ["Table", "draw", "write"]
