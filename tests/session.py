"""A session at the app's server without a browser: what a browser sends and gets, over the same web socket."""

from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.util import calc_hash
from websockets.sync.client import connect


def open_session(address, page="", *, origin=None, leave_when=None, **query):
    """Open a page by its link; gives every message that comes until its script is done.

    The tab is closed before, if `leave_when()` is so at one of the messages.
    """
    url = address.replace("http://", "ws://") + "/_stcore/stream"
    with connect(url, subprotocols=["streamlit"], origin=origin, max_size=None, proxy=None, open_timeout=60) as socket:
        asked = BackMsg()
        asked.rerun_script.query_string = urlencode(query)
        asked.rerun_script.page_script_hash = calc_hash(page)
        socket.send(asked.SerializeToString())
        messages = []
        while True:
            messages.append(ForwardMsg.FromString(socket.recv(timeout=120)))
            is_end = messages[-1].WhichOneof("type") == "script_finished"
            if leave_when and leave_when():
                return messages
            if is_end and messages[-1].script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                return messages


def elements(messages, kind):
    """The elements of this kind that came, in order."""
    deltas = [message.delta.new_element for message in messages if message.WhichOneof("type") == "delta"]
    return [getattr(element, kind) for element in deltas if element.WhichOneof("type") == kind]
