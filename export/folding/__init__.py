"""Exact folding of BatchNormalization on residual streams: how it works is in docs/folding.md."""
