"""Connects sockets of the real libzmq to a node, and gets them into trouble.

Usage: troubled.py SCENE ENDPOINT [MORE], where SCENE is a function of this file
"""

from zmq.utils.monitor import recv_monitor_message

from am import *

BYE, CANCEL = 9, 6
KINDS = {"DEALER": zmq.DEALER, "ROUTER": zmq.ROUTER, "REQ": zmq.REQ, "REQ_CORRELATE": zmq.REQ, "PUSH": zmq.PUSH}
LOST = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
UP = zmq.EVENT_HANDSHAKE_SUCCEEDED


# pyzmq names a monitor after its socket's descriptor, which must not be used again while libzmq knows the name.
monitored = []


def monitor_of(socket):
    monitored.append(socket)
    return socket.get_monitor_socket(UP | LOST)


def next_event(monitor, patience_ms=PATIENCE_MS):
    return recv_monitor_message(monitor)["event"] if monitor.poll(patience_ms) else None


def expect_event(monitor, mask, what):
    event = next_event(monitor)
    check(event is not None and event & mask, f"event {event} came and not {what}")


def expect_quiet(monitor, patience_ms, what):
    event = next_event(monitor, patience_ms)
    check(event is None, f"event {event} came to {what}")


def connected(context, endpoint, name="DEALER", **options):
    """A socket whose handshake is done, and its monitor."""
    socket = open_socket(context, KINDS[name])
    if name == "ROUTER":
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.CONNECT_ROUTING_ID, b"node")
    if name == "REQ_CORRELATE":
        socket.setsockopt(zmq.REQ_CORRELATE, 1)
        socket.setsockopt(zmq.REQ_RELAXED, 1)
    for option, value in options.items():
        socket.setsockopt(getattr(zmq, option), value)
    monitor = monitor_of(socket)
    socket.connect(endpoint)
    expect_event(monitor, UP, "a handshake")
    return socket, monitor


def send(socket, frames):
    prefix = [b"node"] if socket.type == zmq.ROUTER else []
    socket.send_multipart(prefix + frames)


def next_reply(socket):
    """The next reply; a Bye is none."""
    while True:
        frames = receive(socket)
        got = Reply(frames[1:] if socket.type == zmq.ROUTER else frames)
        if got.kind != BYE:
            return got


def call(socket, id, name="echo", payload=b"", mode=WITH_RESPONSE):
    send(socket, message(name, mode, id, payload))
    return next_reply(socket)


def restart(endpoint, name):
    """The node goes and comes back while the socket is idle. Nobody tells the socket but its connection."""
    context = zmq.Context()
    socket, monitor = connected(context, endpoint, name)
    if name == "PUSH":
        send(socket, message("take", ONE_WAY, 1, b"before"))
    else:
        call(socket, 1, payload=b"before").expect(RESPONSE, 1)
    tell("called")
    expect_event(monitor, LOST, "the connection's end")
    expect_event(monitor, UP, "a new connection")
    if name == "PUSH":
        send(socket, message("take", ONE_WAY, 2, b"after"))
    else:
        check(call(socket, 2, payload=b"after").expect(RESPONSE, 2).payload == b"after", "not what was sent")
    context.destroy(linger=PATIENCE_MS)


def drained(endpoint):
    """The node shuts down while a call runs: it is finished, later ones are refused, then the stream ends."""
    context = zmq.Context()
    socket, monitor = connected(context, endpoint)
    send(socket, message("gated", WITH_RESPONSE, 1, b"running"))
    tell("called")
    frames = receive(socket)
    check(Reply(frames).kind == BYE, "the node did not say that it goes")
    send(socket, message("echo", WITH_RESPONSE, 2))
    next_reply(socket).expect(NACK, 2, 4)
    send(socket, message("open", ONE_WAY, 0))
    check(next_reply(socket).expect(RESPONSE, 1).payload == b"running", "not what was sent")
    expect_event(monitor, LOST, "the connection's end")
    context.destroy(linger=0)


def held(endpoint, begin):
    """The node reads no more of a peer that has too much running, and is not dead for that."""
    context = zmq.Context()
    beats = {"HEARTBEAT_IVL": 500, "HEARTBEAT_TIMEOUT": 2500}
    socket, monitor = connected(context, endpoint, **beats)
    opener, _ = connected(context, endpoint)
    if begin == "late":
        expect_quiet(monitor, 1500, "a socket that has time for some heartbeats")
    for id in range(8):
        send(socket, message("gated", WITH_RESPONSE, id, b"x"))
    expect_quiet(monitor, 6000, "a socket whose node does not read it for a while")
    send(opener, message("open", ONE_WAY, 0))
    ids = sorted(next_reply(socket).expect(RESPONSE, None).id for _ in range(8))
    check(ids == list(range(8)), f"answers to {ids} came")
    call(socket, 9).expect(RESPONSE, 9)
    context.destroy(linger=0)


def late_reader(endpoint):
    """A socket that sends until it cannot, and reads only then, gets every answer once."""
    context = zmq.Context()
    socket, monitor = connected(context, endpoint, SNDHWM=1, RCVHWM=1)
    payload = bytes(64 * 1024)
    sent = 0
    # Blocked for a second: the node has stopped to read.
    while socket.poll(1000, zmq.POLLOUT):
        send(socket, message("echo", WITH_RESPONSE, sent, payload))
        sent += 1
        check(sent < 8192, "the node reads on and on")
    ids = sorted(next_reply(socket).expect(RESPONSE, None).id for _ in range(sent))
    check(ids == list(range(sent)), f"{len(set(ids))} of {sent} answers came")
    check(sent > 8, f"only {sent} calls could be sent")
    expect_quiet(monitor, 0, "a slow reader")
    context.destroy(linger=0)


def crowd(endpoint):
    """Many sockets at once, of which some say that they are the same."""
    context = zmq.Context()
    identities = [b"same", b"same", b"x" * 255, bytes(range(1, 17))]
    options = [{"IDENTITY": identity} for identity in identities] + [{}] * 46
    sockets = [connected(context, endpoint, **option)[0] for option in options]
    for round in range(20):
        for number, socket in enumerate(sockets):
            send(socket, message("echo", WITH_RESPONSE, round, b"%d of %d" % (round, number)))
    for number, socket in enumerate(sockets):
        answers = {}
        for _ in range(20):
            answer = next_reply(socket).expect(RESPONSE, None)
            answers[answer.id] = answer.payload
        expected = {round: b"%d of %d" % (round, number) for round in range(20)}
        check(answers == expected, f"socket {number} got {answers}")
    context.destroy(linger=0)


def probing(endpoint):
    """A socket that sends an empty message as soon as it is connected."""
    context = zmq.Context()
    for name in ["DEALER", "ROUTER"]:
        socket, _ = connected(context, endpoint, name, PROBE_ROUTER=1)
        call(socket, 1).expect(RESPONSE, 1)
    req, _ = connected(context, endpoint, "REQ", PROBE_ROUTER=1)
    call(req, 1).expect(RESPONSE, 1)
    context.destroy(linger=0)


def cancelled(endpoint):
    """A call that nobody waits for any more is cancelled, and answered by one Nack."""
    context = zmq.Context()
    socket, _ = connected(context, endpoint)
    send(socket, message("forever", WITH_RESPONSE, 1))
    send(socket, [reply(CANCEL, 1)])
    next_reply(socket).expect(NACK, 1, 34)
    # In time for nothing, and with no time left.
    late = bytearray(header("echo", WITH_RESPONSE, 2))
    late[3] = 1
    send(socket, [bytes(late) + bytes(4)])
    next_reply(socket).expect(NACK, 2, 9)
    call(socket, 3).expect(RESPONSE, 3)
    context.destroy(linger=0)


def misfits(endpoint):
    """Sockets that a node cannot talk to, and those that want another mechanism, are not let in."""
    context = zmq.Context()
    for kind in [zmq.PUB, zmq.SUB, zmq.XPUB, zmq.XSUB, zmq.PAIR, zmq.REP, zmq.PULL]:
        socket = open_socket(context, kind)
        monitor = monitor_of(socket)
        socket.connect(endpoint)
        expect_event(monitor, LOST, f"the refusal of type {kind}")
    secured = open_socket(context, zmq.DEALER)
    secured.plain_username, secured.plain_password = b"user", b"password"
    monitor = monitor_of(secured)
    secured.connect(endpoint)
    expect_event(monitor, LOST, "the refusal of PLAIN")
    good, _ = connected(context, endpoint)
    call(good, 1).expect(RESPONSE, 1)
    context.destroy(linger=0)


def frozen(endpoint):
    """A socket that asked to be forgotten after a second of silence; somebody stops its process."""
    context = zmq.Context()
    beats = {"HEARTBEAT_IVL": 100, "HEARTBEAT_TTL": 1000, "HEARTBEAT_TIMEOUT": 60_000}
    socket, monitor = connected(context, endpoint, **beats)
    call(socket, 1).expect(RESPONSE, 1)
    expect_quiet(monitor, 1000, "a socket that has time for some heartbeats")
    send(socket, message("forever", WITH_RESPONSE, 2))
    tell("called")
    receive(socket)


def main():
    scene, *arguments = sys.argv[1:]
    globals()[scene](*arguments)
    tell("done")


main()
