"""tigerjax: a JAX/TPU-native training stack for TigerBot-style language models."""

__version__ = "0.2.0"
