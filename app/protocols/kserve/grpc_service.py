"""KServe v2 over gRPC: ``inference.GRPCInferenceService``, with Triton's ``ModelStreamInfer`` and repository index."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from app.errors import InvalidInput, ServiceError, TooLarge, meaning
from app.generated.inference import inference_pb2 as pb
from app.grpc.calls import Call
from app.protocols.kserve.parse import VERSION
from app.protocols.kserve.render import EXTENSIONS, FINAL, PLATFORM, Signature
from app.protocols.kserve.service import KServe
from app.protocols.kserve.tensors import (
    TENSORS_MOST,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    checked,
    known_datatype,
    pack,
    unpack,
)
from app.protocols.shapes import sentence
from app.responses import name_error
from vllm_launcher import __version__

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN_METHODS = tuple(f"/{SERVICE.full_name}/{name}" for name in ("ServerLive", "ServerReady", "ModelReady"))
"""What says only whether something is ready is answered to everybody, as health checks need it."""
STATUS_ERRORS = "triton_grpc_error"
"""Metadata of Triton: the first error ends the stream as a status, in place of a message in it."""
CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Where values of a datatype stand that do not come raw."""


class InferenceService:
    """The service's methods; errors are raised, and told by who runs them.

    Args:
        kserve: The operations.
        together: Requests of one stream that are answered at once; more wait.
    """

    def __init__(self, kserve: KServe, together: int) -> None:
        self._kserve = kserve
        self._together = together
        self._usual_wait = kserve.chats.settings.wait_ready

    async def server_live(self, _request: pb.ServerLiveRequest, _call: Call) -> pb.ServerLiveResponse:
        """Who answers lives."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, _request: pb.ServerReadyRequest, _call: Call) -> pb.ServerReadyResponse:
        """As GET /ready."""
        return pb.ServerReadyResponse(ready=self._kserve.ready())

    async def model_ready(self, request: pb.ModelReadyRequest, _call: Call) -> pb.ModelReadyResponse:
        """Whether its server has just generated a token."""
        return pb.ModelReadyResponse(ready=self._kserve.model_ready(request.name, request.version))

    async def server_metadata(self, _request: pb.ServerMetadataRequest, _call: Call) -> pb.ServerMetadataResponse:
        """Name and version."""
        return pb.ServerMetadataResponse(name=PLATFORM, version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: pb.ModelMetadataRequest, _call: Call) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        choice, inputs, outputs = self._kserve.metadata(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=choice.name,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=_metadata(inputs),
            outputs=_metadata(outputs),
        )

    async def repository_index(self, request: pb.RepositoryIndexRequest, _call: Call) -> pb.RepositoryIndexResponse:
        """The models and their states."""
        entries = self._kserve.index(ready=request.ready)
        return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**entry) for entry in entries])

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """One answer."""
        infer = read_request(request)
        return write_response(await self._kserve.infer(infer, wait=call.wait(self._usual_wait), owner=call.owner))

    async def model_stream_infer(self, requests: AsyncIterator[pb.ModelInferRequest], call: Call) -> None:
        """Answer many requests as they come, several at once; an error is a message, and the stream goes on."""
        places = asyncio.Semaphore(self._together)
        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await places.acquire()
                    task = group.create_task(self._answer(request, call), name="inference of a stream")
                    task.add_done_callback(lambda _: places.release())
        except ExceptionGroup as errors:  # the first error ends the stream, where its caller wants that
            raise errors.exceptions[0] from errors

    async def _answer(self, request: pb.ModelInferRequest, call: Call) -> None:
        try:
            await self._stream_answers(read_request(request), call)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            named = name_error(error)
            if call.metadata.get(STATUS_ERRORS) == "true":
                raise named from error
            await call.send(write_error(request, named))

    async def _stream_answers(self, infer: InferRequest, call: Call) -> None:
        async for response in self._kserve.answers(infer, wait=call.wait(self._usual_wait), owner=call.owner):
            await call.send(pb.ModelStreamInferResponse(infer_response=write_response(response)))


# --- between protobuf and tensors ------------------------------------------------------------


def read_request(request: pb.ModelInferRequest) -> InferRequest:
    """Return an inference's values.

    Raises:
        InvalidInput: A tensor is none.
        TooLarge: More tensors than any model takes.
    """
    raw = request.raw_input_contents
    if len(request.inputs) > TENSORS_MOST:
        raise TooLarge(f"More than {TENSORS_MOST} tensors.", param="inputs")
    if raw and len(raw) != len(request.inputs):
        message = f"{len(request.inputs)} inputs and {len(raw)} raw contents came: either each has one, or none has."
        raise InvalidInput(message, param="raw_input_contents")
    tensors = [read_tensor(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs)]
    return InferRequest(
        request.model_name,
        {tensor.name: tensor for tensor in tensors},
        request.model_version,
        request.id,
        {name: read_parameter(value) for name, value in request.parameters.items()},
        tuple(output.name for output in request.outputs),
    )


def read_tensor(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    """Return one input."""
    datatype = known_datatype(tensor.name, tensor.datatype)
    if "shared_memory_region" in tensor.parameters:
        raise InvalidInput(f"'{tensor.name}' is in shared memory, which is not supported.", param=tensor.name)
    if raw is not None:
        values: Sequence[Any] = unpack(tensor.name, datatype, raw)
    elif (place := CONTENTS.get(datatype)) is None:
        raise InvalidInput(f"{datatype} values come raw (raw_input_contents).", param=tensor.name)
    else:
        values = [*getattr(tensor.contents, place)]
    return checked(Tensor(tensor.name, datatype, tuple(tensor.shape), values))


def read_parameter(parameter: pb.InferParameter) -> Parameter:
    """Return a parameter's value; an empty one is an empty text."""
    chosen: str | None = parameter.WhichOneof("parameter_choice")
    return "" if chosen is None else getattr(parameter, chosen)


def write_parameter(value: Parameter) -> pb.InferParameter:
    """Return a parameter."""
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)


def write_response(response: InferResponse) -> pb.ModelInferResponse:
    """Return an answer, its values raw as every client takes them."""
    return pb.ModelInferResponse(
        model_name=response.model,
        model_version=VERSION,
        id=response.id,
        parameters={name: write_parameter(value) for name, value in response.parameters.items()},
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            for tensor in response.outputs
        ],
        raw_output_contents=[pack(tensor) for tensor in response.outputs],
    )


def write_error(request: pb.ModelInferRequest, error: ServiceError) -> pb.ModelStreamInferResponse:
    """Return an error as a message of a stream; the answer around it says to which request it belongs."""
    parameters = {FINAL: write_parameter(value=True), "error_type": write_parameter(meaning(error).type)}
    around = pb.ModelInferResponse(
        model_name=request.model_name, model_version=VERSION, id=request.id, parameters=parameters
    )
    return pb.ModelStreamInferResponse(error_message=sentence(error), infer_response=around)


def _metadata(signatures: Sequence[Signature]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)
        for name, datatype, shape in signatures
    ]
