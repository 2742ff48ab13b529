"""Which authorities a server behind TLS is verified with."""

from __future__ import annotations

import ssl

import httpx


def verification(base: str) -> ssl.SSLContext | bool:
    """What httpx's ``verify`` is for this address: the authorities that SSL_CERT_FILE or SSL_CERT_DIR names, as the
    door and Aider itself take them; False for plain http, because they take 70 ms and a megabyte to load.

    Where those cannot be read the usual ones are taken, and the request says what is wrong.
    """
    if not base.startswith("https"):
        return False
    try:
        return httpx.create_ssl_context()
    except OSError:  # ssl.SSLError among them
        return httpx.create_ssl_context(trust_env=False)
