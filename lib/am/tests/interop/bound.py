"""Binds a socket of the real libzmq, tells where, and serves the node that dials it.

Usage: bound.py TYPE ENDPOINT [HEARTBEAT_MS]

The node is served until it says `stop`: ROUTER, REP and DEALER echo; REQ and DEALER call; PUSH sends; PULL reports.
Other types only wait for an end.
"""

import time

from am import *


def answer(frames):
    """The frames that answer a message, and whether it was the last one."""
    asked = Reply(frames)
    check(asked.kind == MESSAGE, f"kind {asked.kind} came")
    name, mode, id = asked.name, asked.code, asked.id
    if name == "fail":
        return [struct.pack(">BBBBBBBBQ", 1, NACK, 32, 0, 0, 0, 0, 0, id), b"failed on purpose"], False
    if mode == CONFIRMED:
        return [reply(ACK, id)], name == "stop"
    if name == "late":
        time.sleep(0.5)
    check(mode == WITH_RESPONSE, f"mode {mode} came")
    return [reply(RESPONSE, id, asked.codec)] + ([asked.payload] if asked.payload else []), False


def serve(socket, has_address):
    while True:
        frames = receive(socket)
        address, frames = (frames[:1], frames[1:]) if has_address else ([], frames)
        kind = Reply(frames).kind
        if kind == 9:  # Bye: the node goes
            return
        if kind == 6:  # Cancel: too late for somebody who does one thing at a time
            continue
        frames, is_last = answer(frames)
        socket.send_multipart(address + frames, copy=False)
        if is_last:
            return


def call(socket):
    """Calls the node's echo with each size. The first one waits for the node to dial."""
    for id, size in enumerate(SIZES, 1):
        payload = pattern(size)
        socket.send_multipart(message("echo", WITH_RESPONSE, id, payload), copy=False)
        back = Reply(receive(socket)).expect(RESPONSE, id)
        check(back.payload == payload, f"{len(back.payload)} octets came back for {size}")
    socket.send_multipart(message("nobody", WITH_RESPONSE, 99))
    Reply(receive(socket)).expect(NACK, 99, 2)


def pull(socket):
    """Tells the length of each payload that comes."""
    while True:
        got = Reply(receive(socket))
        check((got.kind, got.code) == (MESSAGE, ONE_WAY), f"kind {got.kind}, mode {got.code} came")
        check(got.payload == pattern(len(got.payload)), "the octets are others")
        tell(f"{got.name} {len(got.payload)}")
        if got.name == "stop":
            return


def push(socket):
    for size in SIZES:
        socket.send_multipart(message("take", ONE_WAY, 0, pattern(size)))


def main():
    name, endpoint, *rest = sys.argv[1:]
    context = zmq.Context()
    socket = open_socket(context, getattr(zmq, name))
    if rest:
        socket.setsockopt(zmq.HEARTBEAT_IVL, int(rest[0]))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * int(rest[0]))
    socket.bind(endpoint)
    tell(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    if name == "REQ":
        call(socket)
    elif name == "DEALER":
        call(socket)
        tell("called")
        serve(socket, has_address=False)
    elif name == "PULL":
        pull(socket)
    elif name == "PUSH":
        push(socket)
    elif name in ["ROUTER", "REP"]:
        serve(socket, has_address=name == "ROUTER")
    else:
        time.sleep(PATIENCE_MS / 1000)
    context.destroy(linger=PATIENCE_MS)
    tell("done")


main()
