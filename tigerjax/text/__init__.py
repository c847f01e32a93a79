"""Raw text to clean text: rules, de-duplication, containment, decontamination."""
