"""a file cut into parts, steps over the parts, and where the steps run."""
