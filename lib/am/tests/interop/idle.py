"""Connects a DEALER, is idle twice, and checks that the connection was kept.

Usage: idle.py ENDPOINT HEARTBEAT_MS IDLE_MS, where no heartbeats are sent if HEARTBEAT_MS is 0
"""

from zmq.utils.monitor import recv_monitor_message

from am import *

def next_event(monitor, patience_ms):
    return recv_monitor_message(monitor)["event"] if monitor.poll(patience_ms) else None


def main():
    endpoint, interval, idle_ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    context = zmq.Context()
    socket = open_socket(context, zmq.DEALER)
    if interval:
        socket.setsockopt(zmq.HEARTBEAT_IVL, interval)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * interval)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
    socket.connect(endpoint)
    event = next_event(monitor, PATIENCE_MS)
    check(event == zmq.EVENT_HANDSHAKE_SUCCEEDED, f"{event} came for the handshake")
    for id in range(2):
        socket.send_multipart(message("echo", WITH_RESPONSE, id, b"x"))
        Reply(receive(socket)).expect(RESPONSE, id)
        event = next_event(monitor, idle_ms)
        check(event is None, f"event {event} came to an idle connection")
    context.destroy(linger=0)
    tell("done")


main()
