from __future__ import annotations

import socket
import struct
import threading

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from robot_drivers import messages as m
from robot_drivers.protocol import (
    CLIENT_MESSAGES,
    MAX_FRAME_BYTES,
    SUPERVISOR_MESSAGES,
    Connection,
    ProtocolError,
    dial,
    encode,
    listen,
    read_tokens,
    role_of,
    write_tokens,
)
from robot_drivers.states import RefusedError, Role, State
from robot_drivers.supervisor_client import SupervisorClient

PERSON = {"request_id": 1, "operator": "ada", "role": Role.OPERATE}
FROM_CLIENT = [
    m.Hello(token="t" * 30, client="console"),
    m.ProposeChunk(
        request_id=1,
        generation=3,
        observation_sequence=9,
        observation_age_s=0.05,
        checkpoint="abc",
        policy_version=4,
        actions=((0.01, 0.0, 0.0, 0.0, 0.0, 0.1, 1.0), (0.0,) * 7),
        start_after_s=(0.0, 0.2),
        expire_after_s=(0.2, 0.4),
    ),
    m.BeginEpisode(request_id=1, episode_id="e", instruction="pick", checkpoint="abc"),
    m.EndEpisode(request_id=1, episode_id="e"),
    m.ReportValue(request_id=1, value=-0.4, advantage=0.1),
    m.ReportWaiting(request_id=1, what="a person to arm the robot", valid_s=3.0),
    m.Acquire(**PERSON, phase=m.Phase.RECOVERY, forced=True),
    m.HumanInput(request_id=2, fence=1, sequence=2, age_s=0.01, twist=((0.1, 0, 0, 0, 0, 0.0),), gripper_opening=(None,)),
    m.Release(request_id=3, fence=1),
    m.Arm(**PERSON),
    m.Disarm(**PERSON),
    m.HandBack(**PERSON),
    m.Home(**PERSON),
    m.Stop(request_id=4, operator="ada", reason="smoke"),
    m.Reset(**PERSON, reason="cable freed", confirmed=True),
    m.Acknowledge(**PERSON, reason="seen"),
    m.SetLabel(**PERSON, episode_id="e", label=m.Label.SUCCESS),
]
REPLY = m.Reply(request_id=4, ok=True, generation=2, state=State.HOLD)


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda message: message.type)
def test_a_message_arrives_as_it_was_sent(message):
    assert CLIENT_MESSAGES.decode(encode(message)[4:]) == message


def test_every_message_of_a_client_is_tried_above():
    assert {type(message) for message in FROM_CLIENT} == set(m.FromClient.__args__)


@given(body=st.binary(max_size=200))
def test_noise_is_refused(body):
    with pytest.raises(ProtocolError):
        CLIENT_MESSAGES.decode(body)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "launch"}, "launch"),
        ({"fence": -1}, "fence"),
        ({"fence": "one"}, "fence"),
        ({"age_s": float("nan")}, "age_s"),
        ({"age_s": -0.1}, "age_s"),
        ({"twist": [[0.1] * 5]}, "twist"),
        ({"also": 1}, "also"),
        ({"sequence": None}, "sequence"),
    ],
)
def test_a_wrong_field_is_refused_by_name(change, named):
    fields = {
        "type": "human_input",
        "request_id": 1,
        "fence": 1,
        "sequence": 1,
        "age_s": 0.0,
        "twist": [[0.0] * 6],
        "gripper_opening": [None],
        "phase": "correction",
    }
    CLIENT_MESSAGES.decode(msgpack.packb(fields))
    with pytest.raises(ProtocolError, match=named):
        CLIENT_MESSAGES.decode(msgpack.packb(fields | change))


def test_a_missing_field_and_one_of_the_other_direction_are_refused():
    with pytest.raises(ProtocolError, match="client: Field required"):
        CLIENT_MESSAGES.decode(msgpack.packb({"type": "hello", "token": "x"}))
    with pytest.raises(ProtocolError, match="reply"):
        CLIENT_MESSAGES.decode(encode(REPLY)[4:])
    assert SUPERVISOR_MESSAGES.decode(encode(REPLY)[4:]) == REPLY


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (struct.pack(">I", MAX_FRAME_BYTES + 1), r"a frame of 1048577 bytes; expected 1 to 1048576"),
        (struct.pack(">I", 0), "a frame of 0 bytes"),
        (encode(FROM_CLIENT[0])[:-3], "closed after"),
        (b"\x00\x00", "closed after 2 of 4"),
        (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
    ],
)
def test_frames_that_are_cut_off_or_too_large_end_the_connection(sent, complaint):
    ours, theirs = socket.socketpair()
    connection = Connection(ours, CLIENT_MESSAGES)
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ProtocolError, match=complaint):
        connection.receive()
    connection.close()


def test_frames_come_whole_however_they_are_split():
    ours, theirs = socket.socketpair()
    stream = b"".join(encode(message) for message in FROM_CLIENT)

    def dribble():
        for start in range(0, len(stream), 7):
            theirs.send(stream[start : start + 7])
        theirs.close()

    threading.Thread(target=dribble).start()
    connection = Connection(ours, CLIENT_MESSAGES)
    assert [connection.receive() for _ in FROM_CLIENT] == FROM_CLIENT
    assert connection.receive() is None
    connection.close()


def test_a_message_too_large_to_send_is_refused_here():
    with pytest.raises(ProtocolError, match="at most 1048576"):
        encode(m.Goodbye(reason="x" * MAX_FRAME_BYTES))


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.168.1.2:80", "localhost:http", "example.org:1"])
def test_only_loopback_is_listened_on(address):
    with pytest.raises(ConfigError, match="not a loopback address"):
        listen(address)


def test_a_socket_left_behind_is_taken_over_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "s.sock"
    listen(str(path)).close()
    living = listen(str(path))
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="already listens"):
        listen(str(path))
    living.close()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="not a socket"):
        listen(str(tmp_path / "file"))
    with pytest.raises(ProtocolError, match="no supervisor at"):
        dial(str(path), timeout_s=0.2)


def test_tokens_are_private_and_one_for_each_role(tmp_path):
    path = tmp_path / "run" / "tokens"
    write_tokens(path)
    tokens = read_tokens(path)
    assert set(tokens) == set(Role)
    assert len(set(tokens.values())) == len(Role)
    assert [role_of(token, tokens) for token in tokens.values()] == list(tokens)
    assert role_of("", tokens) is None
    assert role_of("ü" * 43, tokens) is None
    write_tokens(path)
    assert read_tokens(path) == tokens
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 640; expected 600"):
        read_tokens(path)
    path.chmod(0o600)
    path.write_text("operate short\n")
    with pytest.raises(ConfigError, match="ROLE TOKEN"):
        read_tokens(path)
    with pytest.raises(ConfigError, match="no token file"):
        read_tokens(tmp_path / "none")


class ScriptedSupervisor:
    """Answers one client: refuses what is not `stop`, and hangs up after a `disarm`."""

    def __init__(self):
        self.listening = listen("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection = Connection(self.listening.accept()[0], CLIENT_MESSAGES)
        hello = connection.receive()
        if hello.token != "right":
            connection.send(m.Goodbye(reason="unknown token"))
            connection.close()
            return
        connection.send(
            m.Welcome(
                version=m.VERSION,
                role=Role.OPERATE,
                robot="fake",
                arms=("arm",),
                action_names=(),
                action_units=(),
                action_low=(),
                action_high=(),
                control_hz=5.0,
                limits_digest="0",
                lease_ttl_s=0.25,
            )
        )
        connection.send(m.Event(time_monotonic_s=0.0, kind="state", operator=None, text="hello", episode_id=None))
        while (request := connection.receive()) is not None and not isinstance(request, m.Disarm):
            ok = isinstance(request, m.Stop)
            error = "" if ok else "not now"
            connection.send(m.Reply(request_id=request.request_id, ok=ok, error=error, generation=7, state=State.ESTOP))
        connection.close()


def test_the_client_asks_hears_and_notices_the_end():
    supervisor, heard, ended = ScriptedSupervisor(), [], threading.Event()
    client = SupervisorClient(
        supervisor.address, token="right", client="test", on_message=heard.append, on_close=lambda reason: ended.set()
    )
    assert client.welcome.robot == "fake"
    assert client.ask(m.Stop(request_id=0, operator="ada")).generation == 7
    with pytest.raises(RefusedError, match="not now"):
        client.ask(m.Arm(**PERSON))
    client.tell(m.Arm(**PERSON))
    with pytest.raises(ProtocolError, match="ended"):
        client.ask(m.Disarm(**PERSON))
    assert ended.wait(5)
    assert not client.is_open
    with pytest.raises(ProtocolError, match="not connected"):
        client.ask(m.Arm(**PERSON))
    client.close()
    assert [event.text for event in heard] == ["hello"]
    supervisor.thread.join()


def test_a_refused_client_is_told_why():
    supervisor = ScriptedSupervisor()
    with pytest.raises(ProtocolError, match="refused 'test': unknown token"):
        SupervisorClient(supervisor.address, token="wrong", client="test")
    supervisor.thread.join()
