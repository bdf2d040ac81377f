"""What the scripts share: headers as docs/wire.md describes them, and checks that say what went wrong."""

import struct
import sys

import zmq

MESSAGE, ACK, NACK, RESPONSE, RECEIPT = 1, 2, 3, 4, 5
ONE_WAY, CONFIRMED, WITH_RESPONSE, WITH_RECEIPT, RECEIPT_AND_RESPONSE = range(5)
RAW, JSON, MSGPACK = 0, 1, 2

SIZES = [0, 1, 255, 256, 8191, 65536, 1 << 20, 64 << 20]

# The longest that anything may take which is meant to happen at once.
PATIENCE_MS = 30_000


def header(name, mode, id, codec=RAW, kind=MESSAGE):
    name = name.encode()
    return struct.pack(">BBBBBBBBQ", 1, kind, mode, 0, codec, len(name), 0, 0, id) + name


def reply(kind, id, codec=RAW):
    return struct.pack(">BBBBBBBBQ", 1, kind, 0, 0, codec, 0, 0, 0, id)


def message(name, mode, id, payload=b"", codec=RAW):
    """The frames of a message; an empty payload is left out."""
    return [header(name, mode, id, codec)] + ([payload] if payload else [])


class Reply:
    """The frames of a reply, or of a message, taken apart."""

    def __init__(self, frames):
        check(1 <= len(frames) <= 2, f"{len(frames)} frames came")
        octets = frames[0]
        check(len(octets) >= 16, f"a header of {len(octets)} octets came")
        version, self.kind, self.code, flags, self.codec, name_len, _, _, self.id = struct.unpack(
            ">BBBBBBBBQ", octets[:16]
        )
        check(version == 1, f"version {version} came")
        self.name = octets[16 : 16 + name_len].decode()
        self.payload = frames[1] if len(frames) > 1 else b""

    def expect(self, kind, id, code=None):
        text = self.payload[:80]
        check(self.kind == kind, f"kind {self.kind} came for {kind}: code {self.code}, {text!r}")
        check(id is None or self.id == id, f"a reply to {self.id} came for {id}")
        check(code is None or self.code == code, f"code {self.code} came for {code}: {text!r}")
        return self


def check(condition, text):
    if not condition:
        sys.exit(f"{sys.argv[0]}: {text}")


def receive(socket):
    check(socket.poll(PATIENCE_MS), "no message has come")
    return socket.recv_multipart()


def pattern(size):
    """Octets that differ from place to place, so that a part that is lost or moved is noticed."""
    block = bytes(range(251))
    return (block * (size // 251 + 1))[:size]


def open_socket(context, kind):
    socket = context.socket(kind)
    socket.linger = PATIENCE_MS
    socket.sndtimeo = PATIENCE_MS
    socket.rcvtimeo = PATIENCE_MS
    return socket


def tell(word):
    print(word, flush=True)


__all__ = [name for name in dir() if not name.startswith("_")]
