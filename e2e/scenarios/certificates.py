"""Certificates for tests, made by openssl: each one new, of its own key."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import tempfile
from pathlib import Path

from harness import tool


def certificate(hosts: list[str]) -> tuple[str, str, str]:
    """Certificate and key as PEM, and the certificate's SHA-256 in hex; the first host is its common name."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        subprocess.run(
            [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", f"/CN={hosts[0]}", "-addext", "subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts),
             "-keyout", str(key), "-out", str(chain)],
            check=True, capture_output=True, timeout=30,
        )
        text = chain.read_text()
        return text, key.read_text(), hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()
