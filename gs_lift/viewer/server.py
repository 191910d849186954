"""The server of the viewer's page, and where to look at it."""

import io
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

from gs_lift.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import viser

LOCALHOST = "127.0.0.1"


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
    with _silence(), _own_pages_only(host, port):
        server = viser.ViserServer(host=host, port=port, label="gs_lift", verbose=False)
    # No button that asks a relay outside for a public address.
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
    server.scene.world_axes.visible = False
    return server


@contextmanager
def _own_pages_only(host: str, port: int) -> Iterator[None]:
    """A server that starts inside takes connections of its own page only, if it serves this machine.

    Any page of the web that is open in the same browser could connect as well, and edit: viser does not look at the
    Origin, and gives no way to; websockets does, if it is told.
    """
    from websockets.asyncio import server

    plain = server.serve
    if is_loopback(host):
        names = {host, LOCALHOST, "localhost", "[::1]"}
        origins: list[Any] = [f"http://{name}:{port}" for name in sorted(names)]
        vars(server)["serve"] = partial(plain, origins=[*origins, None])  # None: no browser
    try:
        yield
    finally:
        vars(server)["serve"] = plain


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def close_server(server: "viser.ViserServer") -> None:
    with _silence():
        server.stop()


def _silence() -> redirect_stdout[io.StringIO]:
    """Viser prints a banner and a farewell, whatever it is told."""
    return redirect_stdout(io.StringIO())


def where_to_look(host: str, port: int) -> list[str]:
    """What to tell the user: the address, the tunnel from a machine without a screen, a warning where others get in."""
    shown = LOCALHOST if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    lines = [f"open http://{shown}:{port} in a browser; Ctrl-C stops"]
    if os.environ.get("SSH_CONNECTION") and is_loopback(host):
        user = os.environ.get("USER") or os.environ.get("LOGNAME") or "you"
        lines.append(f"from your own machine: ssh -N -L {port}:{shown}:{port} {user}@{socket.gethostname()}")
    if not is_loopback(host):
        lines.append(
            f"warning: --host {host}: whoever reaches this machine can look at the scene and edit the run"
        )
    return lines
