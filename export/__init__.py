"""From a network to an artifact: ONNX, verification against torch, manifest, BentoML's model store."""
