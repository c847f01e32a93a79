"""how the hosts of one run find each other, agree and fail together."""
