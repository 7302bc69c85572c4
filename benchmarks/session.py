"""The app's server, and browserless sessions that exchange a browser's messages with it over the same web socket."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.util import calc_hash
from websockets.asyncio.client import ClientConnection, connect

_DONE = (0, 3)  # ForwardMsg.script_finished of a page or fragment that is done; any other value means a rerun
_PATIENCE = 60  # Seconds without a message from the server that count as an error.
_WIDGETS = ("text_area", "number_input")


@contextmanager
def server(*module: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the web socket's address and the process of the app's server on this machine, stopped when the block ends.

    `module` is the module to run in place of `streamlit`, followed by its own arguments.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *(module or ("streamlit",)), "run", "app.py", "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true"]
    environment = os.environ | environment
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}/_stcore/stream", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


class Session:
    """One open tab. It keeps track of the widgets that the page has sent, and their values."""

    def __init__(self, url: str, page: str, query: Mapping[str, str]) -> None:
        self._url, self._page, self._query = url, page, urlencode(query)
        self._values: dict[str, str | float] = {}  # widget id -> value
        self._ids: dict[str, str] = {}  # label -> widget id
        self._fragments: dict[str, str] = {}  # widget id -> fragment

    async def __aenter__(self) -> Self:
        self._socket: ClientConnection = await connect(
            self._url, subprotocols=["streamlit"], max_size=None, proxy=None, open_timeout=60
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.close()

    async def open(self) -> list[ForwardMsg]:
        """Open the page; return every message until its script is done."""
        return await self._run("")

    async def put(self, label: str, value: str | float) -> list[ForwardMsg]:
        """Set the widget with this label; return every message until its script or fragment is done."""
        id = self._ids[label]
        self._values[id] = value
        return await self._run(self._fragments[id])

    async def _run(self, fragment: str) -> list[ForwardMsg]:
        asked = BackMsg()
        asked.rerun_script.query_string = self._query
        asked.rerun_script.page_script_hash = calc_hash(self._page)
        asked.rerun_script.fragment_id = fragment
        states = WidgetStates()
        for id, value in self._values.items():
            if isinstance(value, str):
                states.widgets.add(id=id, string_value=value)
            else:
                states.widgets.add(id=id, double_value=value)
        asked.rerun_script.widget_states.CopyFrom(states)
        await self._socket.send(asked.SerializeToString())
        messages: list[ForwardMsg] = []
        while not (messages and messages[-1].WhichOneof("type") == "script_finished" and _is_done(messages[-1])):
            messages.append(ForwardMsg.FromString(await asyncio.wait_for(self._socket.recv(), _PATIENCE)))
            self._learn(messages[-1])
        return messages

    def _learn(self, message: ForwardMsg) -> None:
        kind = message.delta.new_element.WhichOneof("type") if message.WhichOneof("type") == "delta" else None
        if kind in _WIDGETS:
            widget: Any = getattr(message.delta.new_element, kind)
            self._ids[widget.label] = widget.id
            self._values.setdefault(widget.id, widget.value if widget.set_value else widget.default)
            self._fragments[widget.id] = message.delta.fragment_id


def _is_done(finished: ForwardMsg) -> bool:
    return finished.script_finished in _DONE


def exceptions(messages: list[ForwardMsg]) -> list[str]:
    """Return the text of every exception shown on the page."""
    elements = [message.delta.new_element for message in messages if message.WhichOneof("type") == "delta"]
    return [element.exception.message for element in elements if element.WhichOneof("type") == "exception"]
