"""The processes of a run on several hosts: how they find each other, agree, and fail together."""
