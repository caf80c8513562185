"""FastAPI on uvicorn (uvloop, httptools), with a micro-batcher written by hand.

The batcher runs the model in the event loop: a thread would wait for the interpreter lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers import shared
from handler.arrays import Images

Job = tuple[Images, "asyncio.Future[bytes]"]


async def serve_batches(jobs: asyncio.Queue[Job]) -> None:
    """Predict whatever has arrived, up to a full batch: a lone request never waits."""
    model = shared.load()
    while True:
        batch = [await jobs.get()]
        if jobs.empty():
            await asyncio.sleep(0)  # let requests that are already read reach the queue
        while len(batch) < shared.BATCH and not jobs.empty():
            batch.append(jobs.get_nowait())
        answers = shared.answer(model, [images for images, _ in batch])
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the batcher as long as the application."""
    app.state.jobs = asyncio.Queue()
    batcher = asyncio.create_task(serve_batches(app.state.jobs))
    yield
    batcher.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """One encoded image or `.npy` file to its digit or digits."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    app.state.jobs.put_nowait((shared.decode(await request.body()), future))
    return Response(await future, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fastapi_peer:app",
        port=shared.PORT,
        workers=shared.WORKERS,
        log_level="warning",
        access_log=False,
    )
