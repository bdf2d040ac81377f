"""A DEALER of the real libzmq that stops reading, and goes on when it is told.

Usage: deaf.py ENDPOINT CALLS LEN

It calls `reply` CALLS times for values of LEN octets (after one whose answer it reads, so that the node knows it),
and reads nothing before a line comes on its standard input. Then it reads all that comes, until nothing has come
for a while or the line `stop` comes, and tells what that was as JSON.
"""

import json
import struct
import sys

import zmq

MESSAGE, NACK, RESPONSE = 1, 3, 4
WITH_RESPONSE, JSON = 2, 1
# Nothing more comes when nothing has come for so long.
QUIET_MS = 3000


def call(id, length):
    name = b"reply"
    header = struct.pack(">BBBBBBBBQ", 1, MESSAGE, WITH_RESPONSE, 0, JSON, len(name), 0, 0, id)
    return [header + name, str(length).encode()]


def main():
    endpoint, calls, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.sndtimeo = 50
    # No heartbeats: libzmq ends its own link when it stops reading, and then fails an assertion (its issue 3937).
    socket.connect(endpoint)
    socket.send_multipart(call(0, 64))
    if not socket.poll(20_000):
        sys.exit("deaf.py: the first answer has not come")
    socket.recv_multipart()
    made = 0
    for id in range(1, calls + 1):
        try:
            socket.send_multipart(call(id, length))
        except zmq.Again:
            break
        made += 1
    print(json.dumps({"made": made}), flush=True)
    sys.stdin.readline()
    seen = {"responses": 0, "nacks": 0, "messages": {}, "out_of_order": 0, "wrong": 0}
    next_number = {}
    while socket.poll(QUIET_MS):
        header, *payload = socket.recv_multipart()
        kind, payload = header[1], payload[0] if payload else b""
        if kind == RESPONSE:
            seen["responses"] += 1
            seen["wrong"] += len(payload) != length
        elif kind == NACK:
            seen["nacks"] += 1
        elif kind == MESSAGE:
            size, number = len(payload), int.from_bytes(payload[:8], "big")
            expected = next_number.get(size, 0)
            seen["out_of_order"] += number != expected
            next_number[size] = expected + 1
    seen["messages"] = next_number
    print(json.dumps(seen), flush=True)


main()
