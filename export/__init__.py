"""From a network to an artifact: ONNX, verification against torch, manifest, BentoML's model store.

Two libraries report home unless they are told not to. ONNX Runtime does since 1.29: what models it opens, on what
machine, under an identifier that it keeps in the home directory. It reads its variable when it is imported, which
nothing outside this package does. BentoML reports its commands and what it serves.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
