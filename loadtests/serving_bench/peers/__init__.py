"""What the service is measured against; each file is a process of its own, most of them in `.venv-peers`."""
