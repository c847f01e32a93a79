"""Llama 2. `face` lists what other rooms use of it; run configs import `presets`, which needs no JAX."""
