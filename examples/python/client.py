#!/usr/bin/env python3
"""Calls a dynamo-am node from Python, with nothing but pyzmq.

A node speaks ZeroMQ's own protocol, so an ordinary DEALER or REQ socket is a client: the first frame of a
message is our header, the second its payload (left out when empty).

    python client.py tcp://127.0.0.1:5555 [--handler sum] [--json '{"a":2,"b":3}']

Exits with 0 when every answer was right, 1 when one was wrong or missing, 2 for bad arguments.
"""

from __future__ import annotations

import argparse
import itertools
import json
import struct
import sys
from typing import Any, NamedTuple

import zmq

# The fixed part of a header, big-endian: version, kind, mode (on a Nack its error code), flags, codec,
# length of the handler's name, depth, reserved, message id. The name follows.
FIXED = struct.Struct(">8BQ")
VERSION = 1
MESSAGE, ACK, NACK, RESPONSE = 1, 2, 3, 4
KINDS = {ACK: "Ack", NACK: "Nack", RESPONSE: "Response"}
CONFIRMED, WITH_RESPONSE = 1, 2
JSON = 1
NO_HANDLER = 2

OUTSTANDING = 8
TIMEOUT_MS = 10_000


class Wrong(Exception):
    """An answer that is not the one the protocol or the handler promises."""


class Reply(NamedTuple):
    """A reply, taken apart."""

    kind: int
    code: int
    codec: int
    id: int
    payload: bytes

    def value(self) -> Any:
        """The answer of a Response; anything else is wrong."""
        if self.kind == NACK:
            raise Wrong(f"refused with error code {self.code}: {self.text()}")
        if self.kind != RESPONSE:
            raise Wrong(f"expected a Response, got kind {self.kind}")
        if not self.payload:
            return None  # a unit answer has no payload
        if self.codec != JSON:
            raise Wrong(f"asked in JSON, answered in codec {self.codec}")
        try:
            return json.loads(self.payload)
        except ValueError as error:
            raise Wrong(f"the answer is no JSON ({error}): {self.payload!r}") from error

    def text(self) -> str:
        """The error text of a Nack."""
        return self.payload.decode("utf-8", "replace")


def request(handler: str, mode: int, message_id: int, argument: Any) -> list[bytes]:
    """The frames of one message."""
    name = handler.encode()
    header = FIXED.pack(VERSION, MESSAGE, mode, 0, JSON, len(name), 0, 0, message_id) + name
    return [header, json.dumps(argument).encode()]


def receive(socket: zmq.Socket) -> Reply:
    """The next reply, at the latest after TIMEOUT_MS."""
    try:
        frames = socket.recv_multipart()
    except zmq.Again:
        raise Wrong(f"no answer within {TIMEOUT_MS} ms") from None
    if not 1 <= len(frames) <= 2 or len(frames[0]) < FIXED.size:
        raise Wrong(f"no reply of ours: {frames!r}")
    version, kind, code, _flags, codec, _name, _depth, _reserved, reply_to = FIXED.unpack_from(frames[0])
    if version != VERSION or kind not in KINDS:
        raise Wrong(f"version {version}, kind {kind}: no reply that this client knows")
    return Reply(kind, code, codec, reply_to, frames[1] if len(frames) == 2 else b"")


def receive_for(socket: zmq.Socket, message_id: int) -> Reply:
    """The next reply, which must be to `message_id`."""
    reply = receive(socket)
    if reply.id != message_id:
        raise Wrong(f"asked with id {message_id}, answered to id {reply.id}")
    return reply


def is_sum(handler: str, argument: Any) -> bool:
    """Whether the right answer is known here: `sum` of two whole numbers."""
    return (
        handler == "sum"
        and isinstance(argument, dict)
        and all(type(argument.get(key)) is int for key in ("a", "b"))
    )


def check(handler: str, argument: Any, answer: Any) -> None:
    """Compares an answer with the one that it must be, where that is known."""
    if is_sum(handler, argument) and answer != {"total": argument["a"] + argument["b"]}:
        raise Wrong(f"{handler} {json.dumps(argument)} answered {json.dumps(answer)}")


def many_calls(socket: zmq.Socket, ids: itertools.count, handler: str, argument: Any) -> None:
    """Several calls at once on one DEALER: replies come in any order, their ids tell whose they are."""
    pending: dict[int, Any] = {}
    for number in range(OUTSTANDING):
        own = {**argument, "a": argument["a"] + number} if is_sum(handler, argument) else argument
        message_id = next(ids)
        pending[message_id] = own
        socket.send_multipart(request(handler, WITH_RESPONSE, message_id, own))
    while pending:
        reply = receive(socket)
        if reply.id not in pending:
            raise Wrong(f"an answer to id {reply.id}, which waits for none")
        own = pending.pop(reply.id)
        answer = reply.value()
        check(handler, own, answer)
        print(f"dealer: id {reply.id}: {handler} {json.dumps(own)} -> {json.dumps(answer)}")


def confirmed(socket: zmq.Socket, ids: itertools.count, handler: str, argument: Any) -> None:
    """One way, but acknowledged: the Ack says that the handler has finished without error."""
    message_id = next(ids)
    socket.send_multipart(request(handler, CONFIRMED, message_id, argument))
    reply = receive_for(socket, message_id)
    if reply.kind == NACK:
        raise Wrong(f"{handler} was not confirmed: error code {reply.code}: {reply.text()}")
    if reply.kind != ACK or reply.payload:
        raise Wrong(f"expected an empty Ack, got {KINDS[reply.kind]} with {len(reply.payload)} octets")
    print(f"dealer: id {message_id}: {handler} confirmed: the handler has finished")


def unknown_handler(socket: zmq.Socket, ids: itertools.count) -> None:
    """What nobody serves is refused at once, by a Nack with a code and a text."""
    message_id = next(ids)
    socket.send_multipart(request("no-such-handler", WITH_RESPONSE, message_id, None))
    reply = receive_for(socket, message_id)
    if reply.kind != NACK or reply.code != NO_HANDLER:
        raise Wrong(f"expected a Nack with code {NO_HANDLER}, got {KINDS[reply.kind]} with code {reply.code}")
    if not reply.payload:
        raise Wrong("a Nack without a text")
    print(f"dealer: id {message_id}: no-such-handler: Nack, code {reply.code}: {reply.text()}")


def one_call(socket: zmq.Socket, ids: itertools.count, handler: str, argument: Any) -> None:
    """One call over REQ. The socket itself puts an empty frame in front, and takes it off the reply."""
    message_id = next(ids)
    socket.send_multipart(request(handler, WITH_RESPONSE, message_id, argument))
    answer = receive_for(socket, message_id).value()
    check(handler, argument, answer)
    print(f"req: id {message_id}: {handler} {json.dumps(argument)} -> {json.dumps(answer)}")


def open_socket(context: zmq.Context, kind: int, endpoint: str) -> zmq.Socket:
    """A socket whose every wait is bounded and whose close never hangs."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.RCVTIMEO, TIMEOUT_MS)
    socket.setsockopt(zmq.SNDTIMEO, TIMEOUT_MS)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint)
    return socket


def handler_name(text: str) -> str:
    """A name that fits its length octet."""
    if not 1 <= len(text.encode()) <= 255:
        raise argparse.ArgumentTypeError("a handler's name has 1 to 255 octets of UTF-8")
    return text


def main() -> int:
    """Runs each kind of call once."""
    parser = argparse.ArgumentParser(description="Call a dynamo-am node with pyzmq.")
    parser.add_argument("endpoint", metavar="ENDPOINT", help="tcp://HOST:PORT or ipc:///PATH")
    parser.add_argument("--handler", type=handler_name, default="sum", help="name to call (default: sum)")
    parser.add_argument("--json", type=json.loads, default={"a": 2, "b": 3}, help="its argument")
    options = parser.parse_args()

    ids = itertools.count(1)
    context = zmq.Context()
    try:
        dealer = open_socket(context, zmq.DEALER, options.endpoint)
        many_calls(dealer, ids, options.handler, options.json)
        confirmed(dealer, ids, options.handler, options.json)
        unknown_handler(dealer, ids)
        one_call(open_socket(context, zmq.REQ, options.endpoint), ids, options.handler, options.json)
    except (Wrong, zmq.ZMQError) as error:
        print(f"client.py: {error}", file=sys.stderr)
        return 1
    finally:
        context.destroy(linger=0)
    print("every answer was right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
