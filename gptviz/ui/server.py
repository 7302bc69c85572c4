"""The app's server: Streamlit's own, limited to what the app's pages need of all that a browser may ask for."""

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
from streamlit.runtime.pages_manager import PagesManager
from streamlit.web.server import server_util
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

# Streamlit takes other messages from any visitor too. They run git, empty the caches of all sessions, make room for
# uploads, or write files into the app's folder.
MESSAGES = frozenset({"rerun_script", "stop_script", "app_heartbeat"})
METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_handle_message = AppSession.handle_backmsg
_new_session_message = AppSession._create_new_session_message


def restrict() -> None:
    """Make Streamlit take only `MESSAGES`, hide the path of the script, and not offer to install skills.

    Call this before the first connection. It replaces Streamlit's methods, because Streamlit has no settings for this.
    """
    AppSession.handle_backmsg = _handle_needed  # type: ignore[method-assign]
    AppSession._create_new_session_message = _discreet_message  # type: ignore[method-assign]
    # Until `st.navigation` has run, Streamlit takes a folder named `pages` for its older kind of app, and would run the
    # page that a link names without app.py.
    PagesManager.uses_pages_directory = False


def _handle_needed(self: AppSession, msg: BackMsg) -> None:
    if msg.WhichOneof("type") in MESSAGES:
        _handle_message(self, msg)


def _discreet_message(self: AppSession, *arguments: Any, **settings: Any) -> ForwardMsg:
    message = _new_session_message(self, *arguments, **settings)
    session = message.new_session
    session.main_script_path = Path(session.main_script_path).name
    session.initialize.recommend_skills_install = False  # its button sends a message that is not taken
    return message


def own_pages_only(app: ASGIApp) -> ASGIApp:
    """Refuse requests for a host name that is not allowed, from another site's page, or that send something.

    The allowed host names are those in `server.allowedHosts`. Nothing needs to be sent, because the app has neither
    uploads nor forms.

    Streamlit checks only the host of web sockets. To tell whether an origin is its own, it asks the network for its own
    address, and all sessions wait for the answer.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own_page(Headers(scope=scope)):
            await _NOT_HERE(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] not in METHODS:
            await _NOTHING_SENT(scope, receive, send)
        elif scope["type"] == "websocket" and not _is_own_page(Headers(scope=scope)):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted, so the browser gets a 403
        else:
            await app(scope, receive, send)

    return guarded


_NOT_HERE = PlainTextResponse(
    "gptviz is not served under this name: whoever started it can allow the name with --server.allowedHosts.", 403
)
_NOTHING_SENT = PlainTextResponse("gptviz takes no uploads: type or paste the text.", 405)


def _is_own_page(headers: Headers) -> bool:
    origin = headers.get("origin")
    return is_host_allowed(headers.get("host")) and (
        origin is None
        or is_host_allowed(origin.partition("://")[2])
        or origin in config.get_option("server.corsAllowedOrigins")
    )


MIDDLEWARE = [Middleware(own_pages_only)]


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """Open the browser when the server is up, as Streamlit does for an app that is a plain script."""
    if not config.get_option("server.headless"):
        told = config.is_manually_set("browser.serverAddress")
        address = config.get_option("browser.serverAddress" if told else "server.address") or "localhost"
        url = server_util.get_url(server_util.get_display_address(address))
        asyncio.get_running_loop().call_soon(cli_util.open_browser, url)
    yield
