"""The whole recipe on the embedded data: from raw zh/en text to an aligned model that Hugging Face loads."""
