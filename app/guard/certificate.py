"""A certificate and its key, read and tried: gRPC says nothing of a wrong file until somebody connects."""

import ssl
from pathlib import Path


def read_pair(certificate: Path | None, key: Path | None) -> tuple[bytes, bytes] | None:
    """Return the key and the certificates of two PEM files; None where neither is named.

    Raises:
        OSError: One is missing, cannot be read, or does not belong to the other.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise OSError("TLS needs two files, the certificate and its key, and one is named.")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise OSError(f"{certificate} and {key} are no certificate and its key: {error.reason or error}.") from error
    except OSError as error:
        raise OSError(f"the certificate or its key cannot be read: {error.strerror}.") from error
    return key.read_bytes(), certificate.read_bytes()
