"""The words of docs/REPLICATION.md: what was done and what it says, without figures, which the cells give."""

HEAD = "{seeds} {commits} {minutes} {cells}"
TITLES: dict[str, str] = {name: name for name in ("tokens", "holistic", "dedup", "rounds", "extension")}
VERDICTS: dict[str, str] = {}
WORDS: dict[str, dict[str, str]] = {}
