"""Whether a server can be reached, asked with the standard library alone and answered within a second."""

import socket
import threading
import urllib.request
from urllib.parse import urlsplit

PATIENCE_SECONDS = 0.8  # one round trip to anywhere on earth takes less than half


def first_hop(endpoint: str) -> tuple[str, int]:
    """Return host and port of what a request to ``endpoint`` connects to first: the proxy, if there is one."""
    url = urlsplit(endpoint)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def connection_problem(host: str, port: int) -> str:
    """Return why no connection to ``host`` can be made, an empty text if one can.

    The look-up runs in a thread of its own, because the time it takes without a name server has no other limit.
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
