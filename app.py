"""Starts the page: python app.py, then open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

from squeeze.cli_models import add_models, importing, load_models

IN_USE = "Port {port} on {host} is in use. Stop the program that uses it, or choose another with --port {other}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the page until it is interrupted; 2 where the visitor's flags or files are at fault, with a sentence why."""
    flags = _flags(arguments)
    try:
        _check_port(flags.host, flags.port)
    except PortError as error:
        return _refused(error)
    with importing():  # after the flags, so that --help and a slip answer at once: torch and gradio take seconds
        from squeeze.models.loading import LoadError
        from squeeze.models.profiles import find_profile
        from squeeze.request import RequestError
        from squeeze.ui.bounds import trim
        from squeeze.ui.page import build, launch
        from squeeze.warmup import warm_up

    try:
        profile = find_profile(flags.profile)
        models = load_models(flags, profile, flags.device, partial(print, flush=True))
        print(f"{profile.title}. Licence: {models.profile.licence}.", flush=True)
        if flags.compile:
            for said in warm_up(models):
                print(said, flush=True)
        page = build(models)
    except (LoadError, RequestError) as error:
        return _refused(error)
    except KeyboardInterrupt:
        return 130
    try:
        address = launch(page, flags.host, flags.port, mcp=flags.mcp)
    except OSError:
        try:
            _check_port(flags.host, flags.port)  # it may have been taken while the models were loading
        except PortError as error:
            return _refused(error)
        raise
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl+C does
    print(f"The page is open at {address} - Ctrl+C ends it.", flush=True)
    try:
        page.block_thread()
    finally:
        trim(page, 0, 0)  # not at the end of the server, which waits for visitors who still listen
    return 0


class PortError(RuntimeError):
    """A host or port that cannot be listened on; the message is a sentence with the remedy."""


def _flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="app.py", description="The page: a toy, a prompt, and the balance between them."
    )
    parser.add_argument("--profile", default="plush", help="which models, a row of squeeze/models/profiles.py")
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Space has 0.0.0.0 there
    parser.add_argument("--host", default=host, help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    add_models(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:1 in place of the profile's choice")
    parser.add_argument("--mcp", action="store_true", help="offer the two endpoints to agents too, as an MCP server")
    flags = os.environ.get("SQUEEZE_FLAGS", "")  # a Space has variables and no command line
    try:
        return parser.parse_args([*shlex.split(flags), *(sys.argv[1:] if arguments is None else arguments)])
    except ValueError as error:
        parser.error(f"SQUEEZE_FLAGS is {flags!r}, which cannot be read: {error}. Mend the quotation marks in it.")


def _check_port(host: str, port: int) -> None:
    """Raises PortError where nobody can listen; asked before the models are loaded, which takes longer."""
    if not 1 <= port <= 65535:
        raise PortError(
            f"The port must be a number from 1 to 65535, not {port}. Choose one with --port, for example 7860."
        )
    for name in dict.fromkeys((host, "127.0.0.1")):  # where gradio (6.31) looks, whatever the host
        _check_address(name, port)


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise PortError(f"There is no address {host!r} to listen on. Use --host 127.0.0.1.") from error
    except PermissionError as error:
        raise PortError(f"Port {port} may not be used by this account. Choose one above 1023 with --port.") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise PortError(f"{host!r} is no address of this machine. Use --host 127.0.0.1.") from error
        raise PortError(IN_USE.format(host=host, port=port, other=port + 1)) from error


def _refused(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
