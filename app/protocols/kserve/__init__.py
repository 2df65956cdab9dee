"""KServe's open inference protocol, version 2, over HTTP and gRPC."""
