"""From artifacts to HTTP. Nothing here imports torch, directly or not."""
