"""Documents and SFT examples: one reader for every format."""
