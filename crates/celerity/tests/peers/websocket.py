"""A WebSocket server and client for the end-to-end tests.

    websocket.py server PORT         echoes; /refused is answered 403; /close closes after one message; /drop resets
    websocket.py client PORT NAME    talks to NAME through the proxy at PORT; exits 0 when all went well
"""
import http
import signal
import socket
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

PATIENCE_S = 20


def refuse(connection, request):
    if request.path == "/refused":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "not you\n")


def talk(connection):
    path = connection.request.path
    connection.send(f"hello {connection.request.headers.get('Host')}")
    for message in connection:
        if path == "/close":
            connection.close(4001, "enough")
            return
        if path == "/drop":
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.socket.close()
            return
        connection.send(message)


def server(port):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with serve(talk, "127.0.0.1", port, process_request=refuse, max_size=None) as running:
        running.serve_forever()


def open_to(port, name, path):
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    return connect(
        f"ws://{name}{path}", sock=sock, max_size=None, open_timeout=PATIENCE_S, proxy=None, compression=None
    )


def client(port, name):
    with open_to(port, name, "/echo") as connection:
        assert connection.recv(PATIENCE_S) == f"hello {name}", "the server's first word"
        for count in range(200):
            connection.send(f"message {count}")
            assert connection.recv(PATIENCE_S) == f"message {count}"
        large = bytes(range(256)) * 16384
        connection.send(large)
        assert connection.recv(PATIENCE_S) == large, "four megabytes come back"
        connection.ping().wait(PATIENCE_S)
    assert connection.close_code == 1000, connection.close_code

    # Many small messages before the first is read: both directions are full at once.
    with open_to(port, name, "/echo") as connection:
        connection.recv(PATIENCE_S)
        for count in range(2000):
            connection.send(str(count))
        for count in range(2000):
            assert connection.recv(PATIENCE_S) == str(count)

    with open_to(port, name, "/close") as connection:
        connection.recv(PATIENCE_S)
        connection.send("go")
        try:
            connection.recv(PATIENCE_S)
            raise AssertionError("the server closes")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "enough"), closed

    with open_to(port, name, "/drop") as connection:
        connection.recv(PATIENCE_S)
        connection.send("go")
        try:
            connection.recv(PATIENCE_S)
            raise AssertionError("the server drops the connection")
        except ConnectionClosed as closed:
            assert closed.rcvd is None, closed

    try:
        open_to(port, name, "/refused")
        raise AssertionError("the server refuses")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused.response
        assert refused.response.body == b"not you\n", refused.response.body
    print("websocket ok")


if __name__ == "__main__":
    {"server": lambda: server(int(sys.argv[2])), "client": lambda: client(int(sys.argv[2]), sys.argv[3])}[sys.argv[1]]()
