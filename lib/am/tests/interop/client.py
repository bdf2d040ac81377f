"""Connects a socket of the real libzmq to a node, calls its handlers, and checks each answer.

Usage: client.py DEALER|ROUTER|REQ|REQ_CORRELATE|PUSH ENDPOINT
"""

import json

from am import *


class Dealer:
    """DEALER sends the frames as they are."""

    kind = zmq.DEALER

    def __init__(self, context, endpoint):
        self.socket = open_socket(context, self.kind)
        self.configure()
        self.socket.connect(endpoint)

    def configure(self):
        pass

    def send(self, frames):
        self.socket.send_multipart(frames, copy=False)

    def receive(self):
        return Reply(receive(self.socket))


class Router(Dealer):
    """ROUTER names its peer in front."""

    kind = zmq.ROUTER

    def configure(self):
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.CONNECT_ROUTING_ID, b"node")

    def send(self, frames):
        self.socket.send_multipart([b"node", *frames], copy=False)

    def receive(self):
        address, *frames = receive(self.socket)
        check(address == b"node", f"a message of {address!r} came")
        return Reply(frames)


class Req(Dealer):
    """REQ puts an empty frame in front, and takes it off."""

    kind = zmq.REQ


class ReqCorrelate(Req):
    """With an id in front of it, and without waiting for answers."""

    def configure(self):
        self.socket.setsockopt(zmq.REQ_CORRELATE, 1)
        self.socket.setsockopt(zmq.REQ_RELAXED, 1)


def call(peer, name, mode, id, payload=b"", codec=RAW):
    peer.send(message(name, mode, id, payload, codec))
    return peer.receive()


def check_answers(peer):
    for id, size in enumerate(SIZES, 1):
        payload = pattern(size)
        answer = call(peer, "echo", WITH_RESPONSE, id, payload).expect(RESPONSE, id)
        check(answer.payload == payload, f"{len(answer.payload)} octets came back for {size}")
    answer = call(peer, "sum", WITH_RESPONSE, 2**64 - 1, b'{"a":2,"b":3}', JSON).expect(RESPONSE, 2**64 - 1)
    check(answer.codec == JSON and json.loads(answer.payload) == {"total": 5}, f"{answer.payload!r} came")
    answer = call(peer, "sum", WITH_RESPONSE, 0, b"\x82\xa1a\x02\xa1b\x03", MSGPACK).expect(RESPONSE, 0)
    check(answer.payload == b"\x81\xa5total\x05", f"{answer.payload!r} came")
    call(peer, "count", CONFIRMED, 30).expect(ACK, 30)
    call(peer, "nobody", WITH_RESPONSE, 31).expect(NACK, 31, 2)
    call(peer, "sum", WITH_RESPONSE, 32, b"{", JSON).expect(NACK, 32, 8)
    call(peer, "log", WITH_RESPONSE, 33, b'"x"', JSON).expect(NACK, 33, 7)
    answer = call(peer, "fail", WITH_RESPONSE, 34, b'"no such model"', JSON).expect(NACK, 34, 32)
    check(answer.payload == b"no such model", f"{answer.payload!r} came")
    call(peer, "panic", CONFIRMED, 35).expect(NACK, 35, 33)
    health = call(peer, "_health_check", WITH_RESPONSE, 36, codec=JSON).expect(RESPONSE, 36)
    check(json.loads(health.payload)["status"] == "ok", f"{health.payload!r} came")


def check_malformed(peer):
    unknown_kind = b"\x01\x10" + bytes(6) + b"\x01\x02\x03\x04\x05\x06\x07\x08"
    unknown_version = b"\x02" + unknown_kind[1:]
    for octets in [unknown_kind, unknown_version]:
        peer.send([octets])
        peer.receive().expect(NACK, 0x0102030405060708, 1)
    call(peer, "count", CONFIRMED, 40).expect(ACK, 40)


def check_multiplexed(peer):
    """Modes that only sockets have that may read as often as they like."""
    call(peer, "log", WITH_RECEIPT, 50, b'"x"', JSON).expect(RECEIPT, 50, 0)
    receipt = call(peer, "echo", RECEIPT_AND_RESPONSE, 51, b"abc", JSON).expect(RECEIPT, 51, 0)
    check(json.loads(receipt.payload)["kind"] == "unary", f"{receipt.payload!r} came")
    check(peer.receive().expect(RESPONSE, 51).payload == b"abc", "something else came back")
    for id in range(1000):
        peer.send(message("echo", WITH_RESPONSE, id, str(id).encode()))
    answers = [peer.receive() for _ in range(1000)]
    check(sorted(answer.id for answer in answers) == list(range(1000)), "an answer is missing")
    check(all(answer.payload == str(answer.id).encode() for answer in answers), "answers were mixed up")
    # Nobody answers these, and they stand in nobody's way.
    peer.send(message("count", ONE_WAY, 60))
    peer.send(message("nobody", ONE_WAY, 61))
    peer.send([b"short"])
    peer.send([b"\x01\x10"])
    call(peer, "count", CONFIRMED, 62).expect(ACK, 62)


def check_too_large(peer):
    answer = call(peer, "echo", WITH_RESPONSE, 70, bytes((64 << 20) + 1)).expect(NACK, 70, 6)
    check(answer.payload, "the refusal says nothing")
    call(peer, "count", CONFIRMED, 71).expect(ACK, 71)


def check_one_reply_each(peer):
    """A REQ gets exactly one reply to whatever it sends."""
    call(peer, "count", ONE_WAY, 80).expect(ACK, 80)
    call(peer, "nobody", ONE_WAY, 81).expect(NACK, 81, 2)
    call(peer, "echo", WITH_RECEIPT, 82).expect(NACK, 82, 1)
    call(peer, "echo", RECEIPT_AND_RESPONSE, 83).expect(NACK, 83, 1)
    peer.send([b"short"])
    peer.receive().expect(NACK, 0, 1)
    call(peer, "count", CONFIRMED, 84).expect(ACK, 84)


def check_relaxed(peer):
    """The answer to a request that was given up does not come for the next one."""
    for id in range(90, 120):
        peer.send(message("echo", WITH_RESPONSE, id, b"given up"))
    answer = call(peer, "echo", WITH_RESPONSE, 120, b"kept").expect(RESPONSE, 120)
    check(answer.payload == b"kept", f"{answer.payload!r} came")


def main():
    name, endpoint = sys.argv[1:]
    context = zmq.Context()
    if name == "PUSH":
        socket = open_socket(context, zmq.PUSH)
        socket.connect(endpoint)
        for size in SIZES:
            socket.send_multipart(message("take", ONE_WAY, 0, pattern(size)))
        # It could not read an answer: what asks for one is not run.
        socket.send_multipart(message("take", CONFIRMED, 1, b"not run"))
        for _ in range(100):
            socket.send_multipart(message("take", ONE_WAY, 0, b"one more"))
    elif name == "DEALER" or name == "ROUTER":
        peer = {"DEALER": Dealer, "ROUTER": Router}[name](context, endpoint)
        check_answers(peer)
        check_malformed(peer)
        check_multiplexed(peer)
        check_too_large(peer)
        check_answers(peer)
    else:
        peer = {"REQ": Req, "REQ_CORRELATE": ReqCorrelate}[name](context, endpoint)
        check_answers(peer)
        check_malformed(peer)
        check_one_reply_each(peer)
        check_too_large(peer)
        if name == "REQ_CORRELATE":
            check_relaxed(peer)
    context.destroy(linger=PATIENCE_MS)
    tell("done")


main()
