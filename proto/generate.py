"""Makes the code under ``app/generated`` from the protocol descriptions beside this file: ``make proto``.

Two things are changed in what protoc writes. Imports lead into ``app.generated``. And the descriptions are kept in a
pool of our own: two files that describe the package ``inference`` cannot share protobuf's default one, so that a chain
which uses a Triton client could not be imported beside this service.
"""

import importlib.resources
import re
import sys
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS.parent / "app" / "generated"
POOL = "from google.protobuf import descriptor_pool as _descriptor_pool"
OURS = "from app.generated import pool as _descriptor_pool"
IMPORT = re.compile(r"^from (inference|langserve_vllm\.v1) import ", re.MULTILINE)


def generate(target: Path) -> list[Path]:
    """Write the generated modules below ``target``; return them."""
    sources = sorted(PROTOS.rglob("*.proto"))
    included = importlib.resources.files("grpc_tools") / "_proto"
    options = [f"-I{PROTOS}", f"-I{included}", f"--python_out={target}", f"--pyi_out={target}"]
    if status := protoc.main(["protoc", *options, *map(str, sources)]):
        sys.exit(status)
    made = sorted([*target.rglob("*_pb2.py"), *target.rglob("*_pb2.pyi")])
    for module in made:
        text = module.read_text(encoding="utf-8").replace(POOL, OURS)
        module.write_text(IMPORT.sub(r"from app.generated.\1 import ", text), encoding="utf-8")
    return made


if __name__ == "__main__":
    generate(TARGET)
