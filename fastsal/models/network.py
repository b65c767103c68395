"""Pretrained weights from the network: found out soon where there is none, and said with what would work."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator

SECONDS = 1.5
"""How long a connection may take before the host counts as out of reach."""


def hub() -> str:
    """The hub of timm's and transformers' models."""
    return urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or "huggingface.co"


def reachable(host: str) -> bool:
    """Whether the host, or the proxy that stands before it, takes a connection within :data:`SECONDS`."""
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    parts = urllib.parse.urlsplit(proxy if proxy and "//" in proxy else f"//{proxy or host}")
    found: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError, OverflowError):
            socket.create_connection((parts.hostname or host, parts.port or 443), SECONDS).close()
            found.append(True)

    # In a thread, since looking up a name has no limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(found)


class Unknown(ValueError):
    """There is no such model, with the network or without."""


@contextlib.contextmanager
def fetching(package: str, name: str, host: str) -> Iterator[None]:
    """Around what may fetch a pretrained model from a host, which may not be known: out of its reach the package takes
    what is in its cache, and does not wait.

    Raises:
        ValueError: where that fails; it names the model and what works without a network.
    """
    if not host or reachable(host):
        yield
        return
    local = " or a local folder, hf:FOLDER" if package == "hf" else ""
    with _offline():
        try:
            yield
        except Unknown:
            raise
        except Exception as error:  # whatever the package says of a download that failed
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{package}:{name} is not in the cache and {host} cannot be reached; give --weights FILE{local}, or "
                f"--untrained for random weights: {lines[0][:200]}"
            ) from None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Libraries told that there is no network, so that none tries again and again."""
    constants = sys.modules.get("huggingface_hub.constants")
    before, timeout = getattr(constants, "HF_HUB_OFFLINE", None), socket.getdefaulttimeout()
    environment = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    socket.setdefaulttimeout(SECONDS)
    if before is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[union-attr]
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        if before is not None:
            constants.HF_HUB_OFFLINE = before  # type: ignore[union-attr]
        if environment is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = environment
