"""FastAPI with a thread pool.

As its documentation advises for speed: uvloop and httptools under uvicorn, and a response model, which pydantic
serialises in Rust (fastapi.tiangolo.com/advanced/response-directly: faster than returning a JSONResponse).
The pool is our own: FastAPI's has 40 threads for `def` endpoints, which on two cores only get in each other's way.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request
from pydantic import BaseModel

from loadtests.serving_bench.peers.graph import Graph, threads

graph = Graph()
pool = ThreadPoolExecutor(threads())
app = FastAPI()


class Prediction(BaseModel):
    label: str
    index: int
    probability: float


class Classification(BaseModel):
    predictions: list[Prediction]


@app.get("/readyz")  # type: ignore[untyped-decorator]  # where FastAPI is absent it is Any
async def readyz() -> None:
    """Importing this module has opened the graph."""


@app.post("/classify")  # type: ignore[untyped-decorator]
async def classify(request: Request) -> Classification:
    return await asyncio.get_running_loop().run_in_executor(pool, answer, await request.body())


def answer(encoded: bytes) -> Classification:
    return Classification.model_validate({"predictions": graph.classify(encoded)})
