"""Llama 2, 3 and 3.x. `face` is what other rooms use of it; run configs import `presets`, which needs no JAX."""
