"""Trained models as ONNX files and as `jax.export` artefacts. Needs the extra `export`, except for the latter."""
