from typing import Any

InferenceServerClient: Any
InferInput: Any
InferRequestedOutput: Any
