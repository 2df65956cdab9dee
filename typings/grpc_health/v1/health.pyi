from grpc_health.v1 import health_pb2

class aio:
    class HealthServicer:
        async def set(self, service: str, status: health_pb2.ServingStatus) -> None: ...
        async def enter_graceful_shutdown(self) -> None: ...

