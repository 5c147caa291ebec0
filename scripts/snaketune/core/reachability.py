"""Whether a server can be reached, checked with the standard library alone, within a second."""

import socket
import threading
import urllib.request
from urllib.parse import urlsplit

PATIENCE_SECONDS = 0.8  # a round trip to anywhere on earth takes less than half of it


def first_hop(endpoint: str) -> tuple[str, int]:
    """Return host and port of the first connection of a request to ``endpoint``: the proxy, if there is one."""
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def connection_problem(host: str, port: int) -> str:
    """Return why no connection to ``host`` can be made, an empty string if one can.

    The name is resolved in a thread, because ``getaddrinfo`` without a name server has no timeout.
    """
    outcome = [f"no answer from {host} within {PATIENCE_SECONDS} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE_SECONDS).close()
            outcome[0] = ""
        except TimeoutError:
            pass
        except (OSError, UnicodeError) as error:
            outcome[0] = f"{host}: {getattr(error, 'strerror', None) or error}"

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return outcome[0]
