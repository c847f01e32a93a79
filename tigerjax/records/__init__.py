"""documents and SFT examples out of every format."""
