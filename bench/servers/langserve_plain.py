"""Plain LangServe, as its documentation has it: prompt, ChatOpenAI, parser; ``python langserve_plain.py PORT URL``."""

import sys
import warnings

import uvicorn
from fastapi import FastAPI
from langchain_core.messages import AnyMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_openai import ChatOpenAI
from langserve import add_routes
from pydantic import BaseModel

warnings.simplefilter("ignore")
PORT, URL = int(sys.argv[1]), sys.argv[2]


class ChatInput(BaseModel):
    """A conversation."""

    messages: list[AnyMessage]


prompt = ChatPromptTemplate.from_messages(
    [
        ("system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        MessagesPlaceholder("messages"),
    ]
)
llm = ChatOpenAI(model="smollm2", base_url=f"{URL}/v1", api_key="EMPTY", temperature=0.2, max_tokens=512)
app = FastAPI()
add_routes(app, (prompt | llm | StrOutputParser()).with_types(input_type=ChatInput), path="/smollm2")
uvicorn.run(app, host="127.0.0.1", port=PORT, access_log=False, log_level="warning", loop="uvloop", http="httptools")
