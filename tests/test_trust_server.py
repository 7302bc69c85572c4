"""The app's server as a user starts it: no network, no telemetry, no other site's pages; and 16 sessions at once."""

import inspect
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import patience
import pytest
import torch
from browser import app_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from page_table import PAGES, WORDS_ALONE
from patience import until
from session import ask_for, connected, elements, open_session, receive, send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.app_session import AppSession
from tiny import TINY, tiny_model
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from gptviz.ui import server as server_of_the_app

ROOT = Path(__file__).parents[1]
TALKS_TO = "GPTVIZ_TEST_TALKS_TO"  # environment variable: the file that lists connections to other machines

# Every Python process that has this file's folder on its path runs it before anything else.
GUARD = f"""
import os, socket

def guarded(function, place):
    def checked(*arguments, **how):
        host = place(arguments)
        if isinstance(host, bytes):
            host = host.decode()
        if host and not (host.startswith("127.") or host in ("::1", "localhost", "0.0.0.0")):
            with open(os.environ["{TALKS_TO}"], "a") as file:
                print(function.__name__, host, file=file)
            raise OSError(f"no network: {{host}}")
        return function(*arguments, **how)
    return checked

def of_address(arguments):
    socket_, *_, address = arguments
    return address[0] if isinstance(address, tuple) else None

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, guarded(getattr(socket.socket, name), of_address))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    place = (lambda arguments: arguments[0][0]) if name == "create_connection" else (lambda arguments: arguments[0])
    setattr(socket, name, guarded(getattr(socket, name), place))
"""


def no_network(folder):
    """Return the environment of a process that can reach only this machine, and the file that lists its attempts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    tried = folder / "tried"
    tried.touch()
    return {"PYTHONPATH": str(folder), TALKS_TO: str(tried)}, tried


def own_models(folder):
    """Return the paths of two checkpoints, in the format of GPTVIZ_MODELS."""
    paths = [folder / f"mine{seed}.pth" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        torch.save({"model_state_dict": tiny_model(seed).state_dict(), "config": dict(TINY)}, path)
    return os.pathsep.join(str(path) for path in paths)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server as the README starts it, with no address given; it can reach only this machine."""
    folder = tmp_path_factory.mktemp("server")
    environment, tried = no_network(folder / "guard")
    environment["GPTVIZ_MODELS"] = own_models(folder)
    with app_server(folder / "app", options=(), **environment) as address:
        yield address, tried, folder / "app" / "log"


# --- no network -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 1))",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import urllib.request; urllib.request.urlopen('http://example.org', timeout=1)",
        "import huggingface_hub; huggingface_hub.get_hf_file_metadata('http://example.org/file')",
    ],
)
def test_the_guard_sees_who_leaves_this_machine(tmp_path, code):
    environment, tried = no_network(tmp_path / "guard")
    found = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, check=False)
    assert found.returncode
    assert tried.read_text()


@pytest.mark.slow
def test_start_and_every_page_need_nobody_else(server):
    address, tried, log = server
    for page in PAGES:
        messages = open_session(address, page, text="Hello there")
        assert not elements(messages, "exception")
        assert elements(messages, "plotly_chart") or elements(messages, "dataframe") or page in WORDS_ALONE
    assert tried.read_text() == ""
    assert "Traceback" not in log.read_text()


# --- what the server allows -------------------------------------------------------------------------


@pytest.mark.slow
def test_telemetry_is_off(server):
    (first, *_) = (
        message for message in open_session(server[0], "tokens") if message.WhichOneof("type") == "new_session"
    )
    assert first.new_session.config.gather_usage_stats is False


@pytest.mark.slow
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost.evil.example"]
)
def test_another_sites_page_gets_no_session(server, origin):
    with pytest.raises(InvalidStatus, match="403"):
        open_session(server[0], "tokens", origin=origin)
    assert open_session(server[0], "tokens", origin=server[0])
    assert server[1].read_text() == "", "Streamlit would ask the network for its own address, and all would wait"


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_another_name_for_this_computer_gets_nothing(server, host):
    """If the name of evil.example suddenly points to this machine, the browser treats its pages as the same origin."""
    for origin in (None, f"http://{host}"):
        with pytest.raises(InvalidStatus, match="403"):
            open_session(server[0], "tokens", host=host, origin=origin)
    for path in ("/", "/_stcore/health", "/_stcore/metrics"):
        assert answer(server[0], path, Host=host)[0] == 403


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8501", "127.0.0.1", "[::1]:8501"])
def test_this_computer_s_own_names_are_served(server, host):
    assert open_session(server[0], "tokens", host=host, origin=f"http://{host}")
    assert answer(server[0], "/", Host=host)[0] == 200


@pytest.mark.slow
def test_who_starts_the_app_allows_a_name(tmp_path):
    options = [word for host in ("demo.example.org", "127.0.0.1") for word in ("--server.allowedHosts", host)]
    options += ["--browser.serverAddress", "demo.example.org"]
    with app_server(tmp_path, options=options) as address:
        assert open_session(address, "tokens", host="demo.example.org", origin="https://demo.example.org")
        assert open_session(address, "tokens", host="127.0.0.1", origin="https://demo.example.org"), "a server in front"
        with pytest.raises(InvalidStatus, match="403"):
            open_session(address, "tokens", host="localhost")


def answer(address, path, method="GET", content=b"x", **headers):
    request = urllib.request.Request(
        address + path, headers=headers, method=method, data=content if method != "GET" else None
    )
    try:
        with urllib.request.urlopen(request, timeout=patience.SECONDS) as found:
            return found.status, dict(found.headers), found.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@pytest.mark.slow
def test_another_sites_page_may_read_nothing_and_nothing_is_uploaded(server):
    for path in ("/", "/_stcore/health", "/_stcore/host-config"):
        status, headers, _ = answer(server[0], path, Origin="http://evil.example")
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control-allow")]
    for method in ("PUT", "POST", "DELETE"):
        assert answer(server[0], "/_stcore/upload_file/a/b", method)[0] == 405


@pytest.mark.slow
def test_a_session_cannot_upload(server):
    """The request has all that Streamlit checks: an existing session, its own cookie and token, and a complete form."""
    _, headers, _ = answer(server[0], "/_stcore/health")
    cookie = headers["set-cookie"].split(";")[0]
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\ncontent\r\n--b--\r\n'
    kind = "multipart/form-data; boundary=b"
    with connected(server[0]) as connection:
        ask_for(connection, "tokens")
        while (message := receive(connection)).WhichOneof("type") != "new_session":
            pass
        path = f"/_stcore/upload_file/{message.new_session.initialize.session_id}/file"
        token = {"Cookie": cookie, "X-Xsrftoken": cookie.partition("=")[2], "Content-Type": kind}
        assert answer(server[0], path, "PUT", form, **token)[0] == 405


def test_streamlit_s_own_bound_of_an_upload_is_0_and_no_page_asks_for_a_file():
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["server"]["maxUploadSize"] == 0
    sources = [path.read_text() for folder in ("gptviz/ui", "pages") for path in (ROOT / folder).glob("**/*.py")]
    assert len(sources) > 15
    for element in ("file_uploader", "chat_input", "camera_input", "audio_input"):
        assert not [source for source in sources if element in source]


@pytest.mark.slow
def test_a_message_that_is_too_long_is_not_kept(server):
    with connected(server[0]) as connection:
        send(connection, rerun_script={"widget_states": {"widgets": [{"id": "text", "string_value": "a" * 6_000_000}]}})
        with pytest.raises(ConnectionClosedError) as closed:
            receive(connection)
    assert closed.value.rcvd.code == 1009
    assert open_session(server[0], "tokens")


@pytest.mark.slow
def test_where_files_lie_is_told_to_nobody(server):
    folder, program = str(server[1].parents[1]).encode(), str(ROOT).encode()
    for page in PAGES:
        messages = open_session(server[0], page, model="mine1.pth")
        assert b"mine1.pth" in b"".join(message.SerializeToString() for message in messages)
        raw = [message.SerializeToString() for message in messages]
        assert not [message for message in raw if folder in message or program in message]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/%2e%2e/pyproject.toml",
        "/static/..%2f..%2fpyproject.toml",
        "/app/static/../../app.py",
        "/media/../app.py",
        "/pages/attention.py",
        "/.streamlit/config.toml",
        "/component/..%2f..%2fapp.py",
        "//etc/passwd",
    ],
)
def test_no_file_of_this_machine_is_served(server, path):
    _status, _headers, body = answer(server[0], path)
    assert b"[build-system]" not in body
    assert b"import streamlit" not in body
    assert b"gatherUsageStats" not in body
    assert b"root:" not in body


# --- messages that the pages do not send --------------------------------------------------------------

FORGED = {
    "load_git_info": True,
    "clear_cache": True,
    "set_run_on_save": True,
    "file_urls_request": {"request_id": "a", "file_names": ["a", "b"]},
    "backend_operation_request": {"request_id": "b", "install_skills": {}},
}
DEBUGGING = {"debug_disconnect_websocket", "debug_shutdown_runtime"}  # Streamlit itself never accepts these.


def test_every_message_that_streamlit_knows_is_either_needed_or_tried_here():
    """This fails if a new Streamlit adds or renames a message: look at what that message does."""
    known = {field.name for field in BackMsg.DESCRIPTOR.oneofs_by_name["type"].fields}
    assert known == server_of_the_app.MESSAGES | FORGED.keys() | DEBUGGING
    assert not server_of_the_app.MESSAGES & FORGED.keys()


def test_streamlit_still_has_what_is_replaced(monkeypatch):
    """The names must also be the same, because the module keeps the originals when it is imported."""
    for name in ("handle_backmsg", "_create_new_session_message"):
        monkeypatch.setattr(AppSession, name, getattr(AppSession, name))  # restored after the test
    originals = AppSession.handle_backmsg, AppSession._create_new_session_message
    assert originals == (server_of_the_app._handle_message, server_of_the_app._new_session_message)
    server_of_the_app.restrict()
    assert AppSession.handle_backmsg is not originals[0]
    assert AppSession._create_new_session_message is not originals[1]
    for handler in ("_handle_git_information_request", "_handle_clear_cache_request", "_handle_file_urls_request"):
        assert handler in inspect.getsource(originals[0]), "messages may go another way now"


def command(folder, name, line):
    """Put a command of that name before all others on the path; return the environment for it."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{line}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def kinds_until(connection, last):
    kinds = []
    while not kinds or kinds[-1] != last:
        kinds.append(receive(connection).WhichOneof("type"))
    return kinds


def test_nobody_is_offered_to_install_something(monkeypatch):
    """Streamlit makes the offer to users of coding agents; the message must not reveal the script's folder either."""
    offer = ForwardMsg(
        new_session={"main_script_path": "/home/somebody/app.py", "initialize": {"recommend_skills_install": True}}
    )
    monkeypatch.setattr(server_of_the_app, "_new_session_message", lambda *_, **__: offer)
    message = server_of_the_app._discreet_message(None).new_session
    assert message.main_script_path == "app.py"
    assert not message.initialize.recommend_skills_install


@pytest.mark.slow
def test_forged_messages_do_nothing(tmp_path):
    """They call no git, get no answer and empty no cache; also before the first session, when no script has run."""
    git, passes = tmp_path / "git", tmp_path / "passes"
    git.touch()
    passes.touch()
    path = command(tmp_path / "commands", "git", f'echo called >>"{git}"; exit 1')
    start = ("-c", COUNTED_RUNS, str(passes))
    with app_server(tmp_path / "app", start=start, **path) as address:
        for n_forged in (1, 50):
            with connected(address) as connection:
                for _ in range(n_forged):
                    for kind, content in FORGED.items():
                        send(connection, **{kind: content})
                send(connection, app_heartbeat=True)
                assert kinds_until(connection, "heartbeat_ack") == ["heartbeat_ack"]
                ask_for(connection, "tokens", text="The cat sat")
                assert "backend_operation_response" not in kinds_until(connection, "script_finished")
            open_session(address, "next_token", text="The cat sat")
    assert passes.read_text() == "run\n", "the caches are as full as before"
    assert git.read_text() == ""


COUNTED_RUNS = """
import sys
import gptviz
from streamlit.web.cli import main

note, run = sys.argv[1], gptviz.Engine.run

def counted(*arguments, **settings):
    with open(note, "a") as file:
        print("run", file=file)
    return run(*arguments, **settings)

gptviz.Engine.run = counted
main(sys.argv[2:])
"""


# --- the process ------------------------------------------------------------------------------------

STATE_OF_THE_PROCESS = """
import json, os
import numpy, pandas, threadpoolctl

def state():
    pools = [(pool["user_api"], pool["num_threads"]) for pool in threadpoolctl.threadpool_info()]
    options = {name: pandas.get_option(name) for name in ("display.max_colwidth", "display.max_rows")}
    return json.dumps([dict(os.environ), [pool for pool in pools if pool[0] == "blas"], options])
"""


def printed(code):
    kept = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-W", "ignore", "-c", STATE_OF_THE_PROCESS + code]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=kept | {"OPENBLAS_NUM_THREADS": "2"}
    )
    return found.stdout.splitlines()


@pytest.mark.slow
def test_the_library_leaves_the_process_as_it_is():
    code = """
import torch, plotly, safetensors, tiktoken, psutil, huggingface_hub
before = state()
import gptviz, gptviz.charts, gptviz.verify, gptviz.analysis
gptviz.load("story-gpt").run("The cat sat").top_k()
print(before == state())
"""
    assert printed(code) == ["True"]


STARTS = {
    "served": "import app",
    "run for a view": "from streamlit.testing.v1 import AppTest\nAppTest.from_file('app.py').run(timeout=600)",
}


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_the_app_sets_its_process_up_before_torch_is_loaded(start):
    code = f"""
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            print("torch", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
{start}
import torch  # a served app loads it for the first view
_, pools, options = json.loads(state())
print(sorted({{n_threads for _, n_threads in pools}}), options["display.max_colwidth"])
"""
    assert printed(code) == ["torch 10000", "[1] None"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems open a browser by other commands")
def test_the_start_opens_the_browser_as_streamlit_s_does(tmp_path):
    opened = tmp_path / "opened"
    path = command(tmp_path / "commands", "xdg-open", f'echo "$1" >>"{opened}"')
    with app_server(tmp_path / "app", options=("--server.headless", "false"), **path) as address:
        until(lambda: opened.exists() and opened.read_text().endswith("\n"))
    assert opened.read_text().strip() == address.replace("127.0.0.1", "localhost")
    opened.unlink()
    with app_server(tmp_path / "app", options=(), **path) as address:
        open_session(address, "tokens")
    assert not opened.exists()


# --- 16 sessions ------------------------------------------------------------------------------------

# What each session asks for. Every page of the table is asked for, so the experiments are included automatically.
SESSIONS = [
    (page, {"text": f"Session {number} sees the {number + 2} cats", "model": model, "token": str(number % 4)})
    for number in range(16)
    for page in [[*PAGES][number % len(PAGES)]]
    for model in [["story-gpt", "mine1.pth", "mine2.pth"][number % 3]]
]


def seen(address, session):
    """Return all that a session sees in the end: its charts, tables and texts.

    On a slow machine, long work takes several runs, and each run draws what is done so far: the last one counts.
    """
    page, query = session
    messages = open_session(address, page, **query)
    starts = [at for at, message in enumerate(messages) if message.WhichOneof("type") == "new_session"]
    messages = messages[starts[-1] :]
    assert not elements(messages, "exception")
    charts = [element.spec for element in elements(messages, "plotly_chart")]
    tables = [element.arrow_data.data for element in elements(messages, "dataframe")]
    texts = [element.body for kind in ("markdown", "html") for element in elements(messages, kind)]
    return {"charts": charts, "tables": tables, "texts": [text for text in texts if "hourglass" not in text]}


@pytest.mark.slow
def test_16_sessions_at_once_see_what_each_sees_alone(server, tmp_path):
    with ThreadPoolExecutor(len(SESSIONS)) as pool:
        together = list(pool.map(lambda session: seen(server[0], session), SESSIONS))
    with app_server(tmp_path, GPTVIZ_MODELS=own_models(tmp_path)) as address:  # a server with empty caches
        for session, found in zip(SESSIONS, together, strict=True):
            assert found == seen(address, session), session
    for kind, least in (("charts", 16), ("tables", 4), ("texts", 16)):  # Short tables are sent as HTML texts.
        assert sum(len(found[kind]) for found in together) > least


# --- dependencies -----------------------------------------------------------------------------------


def lines_of(name):
    lines = (line.split(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


COUNTED = """
import sys, time
from pathlib import Path
from gptviz.experiments import token_attribution
from streamlit.web.cli import main

note, go_on, backwards = Path(sys.argv[1]), Path(sys.argv[2]), token_attribution.input_gradients

def counted(*arguments):
    with note.open("a") as file:
        print("back", file=file)
    while len(note.read_text().splitlines()) > 2 and not go_on.exists():
        time.sleep(0.02)
    return backwards(*arguments)

token_attribution.input_gradients = counted
main(sys.argv[3:])
"""


@pytest.mark.slow
def test_the_work_of_a_closed_tab_is_dropped(tmp_path):
    """The third pass is held until the server knows that the tab is closed."""
    note, go_on = tmp_path / "passes", tmp_path / "go on"
    note.touch()

    def n_passes():
        return len(note.read_text().splitlines())

    def n_sessions():
        return int(re.search(rb"^active_sessions (\d+)", answer(address, "/_stcore/metrics")[2], re.MULTILINE)[1])

    query = {"text": "word " * 250, "method": "integrated", "twin": "0"}
    with app_server(tmp_path / "app", start=("-c", COUNTED, str(note), str(go_on))) as address:
        with connected(address) as connection:
            ask_for(connection, "gradients", **query)
            until(lambda: n_passes() > 2)
            assert n_sessions() == 1
        until(lambda: n_sessions() == 0)
        go_on.touch()
        seen = -1
        while seen < n_passes():  # until it no longer grows
            seen = n_passes()
            open_session(address, "tokens")
            time.sleep(2)
        assert seen < 32, "one integral is 32 passes and more at this length"
        open_session(address, "gradients", **query)
        assert n_passes() >= 32, "who stays gets it all"


def test_every_requirement_has_a_range_and_a_version_within_it():
    pinned = dict(line.split("==") for line in lines_of("constraints.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for line in project["dependencies"] + extras["app"] + extras["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier, line
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), line


def test_constraints_are_versions_of_the_index_and_nothing_else():
    lines = lines_of("constraints.txt")
    assert lines == sorted(lines)
    assert len(lines) > 60
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


def test_what_is_installed_by_the_readme_is_constrained():
    commands = re.findall(r"pip install [^`\n&]+", (ROOT / "README.md").read_text())
    of_the_app = [command for command in commands if "benchmarks" not in command]  # peers have their own versions
    assert len(of_the_app) == len(commands) - 1 == 3
    assert all("-c constraints.txt" in command for command in of_the_app)
