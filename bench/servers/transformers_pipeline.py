"""What many start with: a transformers pipeline behind FastAPI; ``python transformers_pipeline.py PORT FOLDER``."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

PORT, MODEL = int(sys.argv[1]), sys.argv[2]
generate = pipeline("text-generation", model=MODEL, dtype="bfloat16", device="cpu")
app = FastAPI()


class Question(BaseModel):
    """One request."""

    prompt: str
    tokens: int


@app.post("/generate")
def answer(question: Question) -> dict[str, str]:
    """Answer with exactly so many tokens. A plain function: FastAPI runs each request in a thread."""
    messages = [{"role": "user", "content": question.prompt}]
    length = {"max_new_tokens": question.tokens, "min_new_tokens": question.tokens}
    said = generate(messages, do_sample=False, return_full_text=False, **length)
    return {"text": said[0]["generated_text"]}


uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning")
