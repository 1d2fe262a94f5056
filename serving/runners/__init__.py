"""What computes logits: one file a runtime, all behind `Runner`."""
