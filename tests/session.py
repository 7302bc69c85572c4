"""A browserless session that exchanges a browser's messages with the app's server over the same web socket."""

import socket
from urllib.parse import urlencode, urlsplit

import patience
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.util import calc_hash
from websockets.sync.client import connect


def connected(address, *, origin=None, host=None):
    """Connect to the app's web socket; `host` is the host name to ask for, if not the address itself.

    The connection keeps receiving messages and answering pings, even while nothing calls `receive`.
    """
    there = urlsplit(address)
    return connect(
        f"ws://{host or there.netloc}/_stcore/stream",
        sock=socket.create_connection((there.hostname, there.port)),
        subprotocols=["streamlit"],
        origin=origin,
        max_size=None,
        max_queue=None,
        ping_interval=None,
        proxy=None,
        open_timeout=patience.SECONDS,
    )


def send(connection, **message):
    """Send one of a browser's messages: the keyword is its kind, the value its content."""
    connection.send(BackMsg(**message).SerializeToString())


def ask_for(connection, page="", **query):
    """Open a page by its link."""
    send(connection, rerun_script={"query_string": urlencode(query), "page_script_hash": calc_hash(page)})


def receive(connection):
    """Return the server's next message."""
    return ForwardMsg.FromString(connection.recv(timeout=patience.SECONDS))


def open_session(address, page="", *, origin=None, host=None, **query):
    """Open a page by its link; return every message until its script is done."""
    with connected(address, origin=origin, host=host) as connection:
        ask_for(connection, page, **query)
        messages = []
        while True:
            messages.append(receive(connection))
            is_end = messages[-1].WhichOneof("type") == "script_finished"
            if is_end and messages[-1].script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                return messages


def elements(messages, kind):
    """Return the received elements of this kind, in order."""
    deltas = [message.delta.new_element for message in messages if message.WhichOneof("type") == "delta"]
    return [getattr(element, kind) for element in deltas if element.WhichOneof("type") == kind]
