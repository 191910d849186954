"""The server of the viewer's page, and where to look at it."""

import getpass
import io
import os
import socket
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from gs_lift.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import viser

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_server(host: str, port: int) -> "viser.ViserServer":
    """Raises BackendError where viser is missing, ConfigError where the address or port cannot be had."""
    try:
        import viser
    except ImportError:
        raise BackendError("the viewer needs viser; pip install 'gs_lift[viewer]'") from None
    if not 0 < port < 2**16:
        raise ConfigError(f"--port {port}: wanted 1 to 65535")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: {error.strerror or error}; choose another port"
            ) from None
    with _silence():
        return viser.ViserServer(host=host, port=port, label="gs_lift", verbose=False)


def close_server(server: "viser.ViserServer") -> None:
    with _silence():
        server.stop()


def _silence() -> redirect_stdout[io.StringIO]:
    """Viser prints a banner and a farewell, whatever it is told."""
    return redirect_stdout(io.StringIO())


def where_to_look(host: str, port: int) -> list[str]:
    """What to tell the user: the address, the tunnel from a machine without a screen, a warning where others get in."""
    shown = "127.0.0.1" if host in LOOPBACK or host in ("0.0.0.0", "::") else host
    lines = [f"open http://{shown}:{port} in a browser; Ctrl-C stops"]
    if os.environ.get("SSH_CONNECTION") and host in LOOPBACK:
        user, machine = getpass.getuser(), socket.gethostname()
        lines.append(f"from your own machine: ssh -N -L {port}:127.0.0.1:{port} {user}@{machine}")
    if host not in LOOPBACK:
        lines.append(
            f"warning: --host {host}: whoever reaches this machine can look at the scene and edit the run"
        )
    return lines
