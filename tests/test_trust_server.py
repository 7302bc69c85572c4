"""The app's server as it is started: no network, no telemetry, no strangers' pages; and 16 sessions at once."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from browser import app_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from session import elements, open_session
from test_app import PAGES
from tiny import TINY, tiny_model
from websockets.exceptions import InvalidStatus

ROOT = Path(__file__).parents[1]
TALKS_TO = "GPTVIZ_TEST_TALKS_TO"  # names the file in which connections to other machines are noted

# Run by every Python process that has its folder on the path, before anything else.
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
    """The environment of a process that can reach this machine only; and the file with what it tried."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    tried = folder / "tried"
    tried.touch()
    return {"PYTHONPATH": str(folder), TALKS_TO: str(tried)}, tried


def own_models(folder):
    """Two checkpoints, as the person who starts the app names them."""
    paths = [folder / f"mine{seed}.pth" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        torch.save({"model_state_dict": tiny_model(seed).state_dict(), "config": dict(TINY)}, path)
    return os.pathsep.join(str(path) for path in paths)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """As README starts it: no address is given, and it can reach this machine only."""
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
        assert elements(messages, "plotly_chart") or elements(messages, "dataframe")
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


def answer(address, path, method="GET", **headers):
    request = urllib.request.Request(
        address + path, headers=headers, method=method, data=b"x" if method != "GET" else None
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return found.status, dict(found.headers), found.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


@pytest.mark.slow
def test_another_sites_page_may_read_nothing_and_nothing_is_uploaded(server):
    for path in ("/", "/_stcore/health", "/_stcore/host-config"):
        status, headers, _ = answer(server[0], path, Origin="http://evil.example")
        assert status == 200
        assert not [name for name in headers if name.lower().startswith("access-control-allow")]
    assert answer(server[0], "/_stcore/upload_file/a/b", "PUT")[0] == 403
    assert answer(server[0], "/_stcore/upload_file/a/b", "DELETE")[0] == 403


@pytest.mark.slow
def test_where_files_lie_is_told_to_nobody(server):
    folder = str(server[1].parents[1]).encode()
    for page in PAGES:
        messages = open_session(server[0], page, model="mine1.pth")
        assert b"mine1.pth" in b"".join(message.SerializeToString() for message in messages)
        assert not [message for message in messages if folder in message.SerializeToString()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/%2e%2e/pyproject.toml", "/static/..%2f..%2fpyproject.toml", "/app/static/../../app.py",
        "/media/../app.py", "/pages/attention.py", "/.streamlit/config.toml", "/component/..%2f..%2fapp.py",
        "//etc/passwd",
    ],
)  # fmt: skip
def test_no_file_of_this_machine_is_served(server, path):
    _status, _headers, body = answer(server[0], path)
    assert b"[build-system]" not in body
    assert b"import streamlit" not in body
    assert b"gatherUsageStats" not in body
    assert b"root:" not in body


# --- 16 sessions ------------------------------------------------------------------------------------

# What each asks for. Pages that intervene join by themselves: all pages of the table are asked for.
SESSIONS = [
    (page, {"text": f"Session {number} sees the {number + 2} cats", "model": model, "token": str(number % 4)})
    for number in range(16)
    for page in [[*PAGES][number % len(PAGES)]]
    for model in [["story-gpt", "mine1.pth", "mine2.pth"][number % 3]]
]


def seen(address, session):
    """All that a session sees: its charts, tables and texts."""
    page, query = session
    messages = open_session(address, page, **query)
    assert not elements(messages, "exception")
    charts = [element.spec for element in elements(messages, "plotly_chart")]
    tables = [element.arrow_data.data for element in elements(messages, "dataframe")]
    texts = [element.body for kind in ("markdown", "html") for element in elements(messages, kind)]
    return {"charts": charts, "tables": tables, "texts": [text for text in texts if "Waiting for " not in text]}


@pytest.mark.slow
def test_16_sessions_at_once_see_what_each_sees_alone(server, tmp_path):
    with ThreadPoolExecutor(len(SESSIONS)) as pool:
        together = list(pool.map(lambda session: seen(server[0], session), SESSIONS))
    with app_server(tmp_path, GPTVIZ_MODELS=own_models(tmp_path)) as address:  # one that has nothing in its caches
        for session, found in zip(SESSIONS, together, strict=True):
            assert found == seen(address, session), session
    for kind, least in (("charts", 16), ("tables", 4), ("texts", 16)):  # short tables are texts, as HTML
        assert sum(len(found[kind]) for found in together) > least


# --- supply -----------------------------------------------------------------------------------------


def lines_of(name):
    lines = (line.split(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


COUNTED = """
import sys
from gptviz.experiments import token_attribution
from streamlit.web.cli import main

note, backwards = sys.argv[1], token_attribution.input_gradients

def counted(*arguments):
    with open(note, "a") as file:
        print("back", file=file)
    return backwards(*arguments)

token_attribution.input_gradients = counted
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_the_work_of_a_closed_tab_is_dropped(tmp_path):
    note = tmp_path / "passes"
    note.touch()

    def n_passes():
        return len(note.read_text().splitlines())

    query = {"text": "word " * 250, "method": "integrated", "twin": "0"}
    with app_server(tmp_path / "app", start=("-c", COUNTED, str(note))) as address:
        open_session(address, "gradients", leave_when=lambda: n_passes() > 2, **query)
        seen = -1
        while seen < n_passes():  # until it stands still
            seen = n_passes()
            time.sleep(2)
        assert seen < 32, "one integral is 32 passes and more at this length"
        open_session(address, "gradients", **query)
        assert n_passes() >= 32, "who stays gets it all"


def test_every_requirement_has_a_range_and_a_version_within_it():
    pinned = dict(line.split("==") for line in lines_of("constraints.txt"))
    for line in lines_of("requirements.txt") + lines_of("requirements-dev.txt"):
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
    of_the_app = [command for command in commands if "benchmarks" not in command]  # peers have versions of their own
    assert len(of_the_app) == len(commands) - 1 == 3
    assert all("-c constraints.txt" in command for command in of_the_app)
