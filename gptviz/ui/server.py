"""The app's server: Streamlit's, which does what the app's pages need and nothing else that a browser may ask for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit import cli_util, config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.app_session import AppSession
from streamlit.web.server import server_util
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

# Of the messages that Streamlit takes from any visitor, others run git, empty the caches of all sessions, make room for
# uploads, or write files into the app's folder.
MESSAGES = frozenset({"rerun_script", "stop_script", "app_heartbeat"})
METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_handle_message = AppSession.handle_backmsg
_new_session_message = AppSession._create_new_session_message


def restrict() -> None:
    """Make Streamlit take no messages but `MESSAGES`, and keep the path of the script to itself.

    Call before the first connection: Streamlit has no settings for this.
    """
    AppSession.handle_backmsg = _handle_needed  # type: ignore[method-assign]
    AppSession._create_new_session_message = _without_path  # type: ignore[method-assign]


def _handle_needed(session: AppSession, message: BackMsg) -> None:
    if message.WhichOneof("type") in MESSAGES:
        _handle_message(session, message)


def _without_path(session: AppSession, *arguments: Any, **settings: Any) -> ForwardMsg:
    message = _new_session_message(session, *arguments, **settings)
    message.new_session.main_script_path = Path(message.new_session.main_script_path).name
    return message


class OwnPagesOnly:
    """Turns away requests under a host name that is not in `server.allowedHosts`, from pages of other sites, and
    those that send something: the app has no uploads and no forms.

    Streamlit looks at web sockets alone, and, to learn whether an origin is its own, asks the network for its address,
    while all sessions wait.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own_page(Headers(scope=scope)):
            await PlainTextResponse("This host or origin is not allowed here.", 403)(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] not in METHODS:
            await PlainTextResponse("Nothing can be sent here.", 405)(scope, receive, send)
        elif scope["type"] == "websocket" and not _is_own_page(Headers(scope=scope)):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the browser gets a 403
        else:
            await self.app(scope, receive, send)


def _is_own_page(headers: Headers) -> bool:
    origin = headers.get("origin")
    return is_host_allowed(headers.get("host")) and (
        origin is None
        or is_host_allowed(origin.partition("://")[2])
        or origin in config.get_option("server.corsAllowedOrigins")
    )


MIDDLEWARE = [Middleware(OwnPagesOnly)]


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """Open the browser when the server is up, as Streamlit does for an app that is a plain script."""
    if not config.get_option("server.headless"):
        told = config.is_manually_set("browser.serverAddress")
        address = config.get_option("browser.serverAddress" if told else "server.address") or "localhost"
        url = server_util.get_url(server_util.get_display_address(address))
        asyncio.get_running_loop().call_soon(cli_util.open_browser, url)
    yield
