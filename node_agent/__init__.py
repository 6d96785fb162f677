"""The agent of a storage node, and what the controller and the agents share.

gRPC has no setting for the lowest version of TLS, but one for the cipher suites of TLS 1.2. It gets
a suite that needs an RSA certificate, while all of ours are ECDSA (``certificates.py``), so that
TLS 1.2 can never be agreed on. gRPC reads the setting once, while it is imported: therefore it is
made here, where it comes before every ``import grpc`` of ours, and ``tls.py`` refuses to work in a
process in which it came too late.
"""

from __future__ import annotations

import os
import sys

_SETTING = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"

TLS_1_2_IS_OUT = "grpc" not in sys.modules or os.environ.get(_SETTING) == _RSA_ONLY

os.environ[_SETTING] = _RSA_ONLY
