"""Calls a node through libzmq's own proxy, or through a chain of them, with REQ and DEALER sockets.

Usage: proxied.py ENDPOINT COUNT, where COUNT is how many proxies stand in between
"""

import threading

from am import *


def proxy(context, endpoint):
    """Starts a proxy to `endpoint`; gives where it listens."""
    front, back = open_socket(context, zmq.ROUTER), open_socket(context, zmq.DEALER)
    port = front.bind_to_random_port("tcp://127.0.0.1")
    back.connect(endpoint)

    def run():
        try:
            zmq.proxy(front, back)
        except zmq.ContextTerminated:
            pass
        front.close(0)
        back.close(0)

    threading.Thread(target=run, daemon=True).start()
    return f"tcp://127.0.0.1:{port}"


def call_alone(socket, number):
    for id, size in enumerate([0, 1, 255, 256, 65536, 4 << 20]):
        payload = pattern(size + number)[number:]
        socket.send_multipart(message("echo", WITH_RESPONSE, id, payload))
        back = Reply(receive(socket)).expect(RESPONSE, id)
        check(back.payload == payload, f"{len(back.payload)} octets came back for {size}")
    socket.send_multipart(message("nobody", WITH_RESPONSE, 98))
    Reply(receive(socket)).expect(NACK, 98, 2)


def call_together(sockets):
    """A DEALER stands in for a REQ: it puts the empty frame in front itself, and calls without waiting."""
    for id in range(100):
        for number, socket in enumerate(sockets):
            payload = b"%d of %d" % (id, number)
            socket.send_multipart([b"", *message("echo", WITH_RESPONSE, id, payload)])
    for number, socket in enumerate(sockets):
        ids = set()
        for _ in range(100):
            empty, *frames = receive(socket)
            back = Reply(frames).expect(RESPONSE, None)
            check(empty == b"" and back.payload == b"%d of %d" % (back.id, number), "somebody else's answer came")
            ids.add(back.id)
        check(len(ids) == 100, f"{len(ids)} answers came")


def main():
    endpoint, count = sys.argv[1], int(sys.argv[2])
    context = zmq.Context()
    for _ in range(count):
        endpoint = proxy(context, endpoint)
    mine = zmq.Context()
    for number in range(3):
        socket = open_socket(mine, zmq.REQ)
        socket.connect(endpoint)
        call_alone(socket, number)
    dealers = [open_socket(mine, zmq.DEALER) for _ in range(5)]
    for dealer in dealers:
        dealer.connect(endpoint)
    call_together(dealers)
    mine.destroy(linger=0)
    context.term()
    tell("done")


main()
