"""raw text to clean text by rules, de-duplication, containment and decontamination."""
