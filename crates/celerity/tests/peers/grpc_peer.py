"""A gRPC server and client for the end-to-end tests, without generated code: messages are bytes.

    grpc_peer.py server PORT         serves test.Echo
    grpc_peer.py client PORT NAME    calls it as NAME through the proxy at PORT; exits 0 when all went well
    grpc_peer.py broken PORT NAME CODE [MESSAGE]   a unary call that must end with this status code, by name
"""
import sys
import threading
import time
from concurrent import futures

import grpc

PATIENCE_S = 20


def unary(request, context):
    if request == b"slow":
        time.sleep(5)
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-ask", "none")),))
    context.set_trailing_metadata((("x-trailing", "yes"), ("x-bin-bin", b"\x00\xff")))
    if request == b"deadline":
        left = context.time_remaining()
        return b"none" if left is None or left > 1e6 else str(round(left)).encode()
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 % \u00fc")
    return request


def repeat(request, context):
    count = int(request)
    for number in range(count):
        yield str(number).encode() * 10
    if count == 13:
        context.abort(grpc.StatusCode.DATA_LOSS, "unlucky")


def endless(request, context):
    number = 0
    while context.is_active():
        number += 1
        yield bytes(16384)


def total(requests, context):
    count = size = 0
    for request in requests:
        count += 1
        size += len(request)
    return f"{count} {size}".encode()


def mirror(requests, context):
    for request in requests:
        yield request[::-1]


def server(port):
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Mirror": grpc.stream_stream_rpc_method_handler(mirror),
    }
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    running = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=options)
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    running.add_insecure_port(f"127.0.0.1:{port}")
    running.start()
    running.wait_for_termination()


def channel(port, name):
    return grpc.insecure_channel(
        f"127.0.0.1:{port}",
        options=[
            ("grpc.default_authority", name),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ],
    )


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call must fail")


def client(port, name):
    with channel(port, name) as to:
        call = to.unary_unary("/test.Echo/Unary")
        # Unary, with metadata in both directions.
        for size in (0, 1, 1000, 100_000, 3_000_000):
            assert call(bytes(size), timeout=PATIENCE_S) == bytes(size), size
        response, details = call.with_call(b"hi", timeout=PATIENCE_S, metadata=(("x-ask", "me"),))
        assert response == b"hi"
        assert dict(details.initial_metadata()).get("x-initial") == "me", details.initial_metadata()
        trailing = dict(details.trailing_metadata())
        assert trailing.get("x-trailing") == "yes" and trailing.get("x-bin-bin") == b"\x00\xff", trailing

        # Errors: trailers only, and after messages; texts with what must be encoded.
        error = failure(lambda: call(b"fail", timeout=PATIENCE_S))
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now: 100 % \u00fc", error.details()
        unknown = to.unary_unary("/test.Echo/Nothing")
        assert failure(lambda: unknown(b"", timeout=PATIENCE_S)).code() == grpc.StatusCode.UNIMPLEMENTED

        # Deadlines: told to the server, and kept by the client while the server sleeps.
        assert call(b"deadline", timeout=17) in (b"16", b"17")
        error = failure(lambda: call(b"slow", timeout=0.3))
        # The client's own clock says so, unless a proxy's is faster: it has heard the same limit.
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE), error

        # Streaming, each way and both.
        repeat_ = to.unary_stream("/test.Echo/Repeat")
        messages = list(repeat_(b"1000", timeout=PATIENCE_S))
        assert messages == [str(number).encode() * 10 for number in range(1000)]
        seen = []
        error = failure(lambda: seen.extend(iter(repeat_(b"13", timeout=PATIENCE_S))))
        assert error.code() == grpc.StatusCode.DATA_LOSS
        total_ = to.stream_unary("/test.Echo/Total")
        assert total_((bytes(10_000) for _ in range(500)), timeout=PATIENCE_S) == b"500 5000000"
        assert total_(iter(()), timeout=PATIENCE_S) == b"0 0"

        # Both ways at once, one answered before the next is said: nothing may wait for more.
        turn = threading.Semaphore(1)

        def questions():
            for number in range(200):
                assert turn.acquire(timeout=PATIENCE_S)
                yield f"question {number}".encode()

        mirror_ = to.stream_stream("/test.Echo/Mirror")
        count = 0
        for answer in mirror_(questions(), timeout=PATIENCE_S):
            assert answer == f"question {count}".encode()[::-1]
            count += 1
            turn.release()
        assert count == 200, count

        # The client goes away in the middle of a stream: the next call still works.
        stream = to.unary_stream("/test.Echo/Endless")(b"", timeout=PATIENCE_S)
        for _ in range(10):
            next(stream)
        stream.cancel()
        assert call(b"still here", timeout=PATIENCE_S) == b"still here"

        # Many at once on one connection.
        calls = [call.future(str(number).encode(), timeout=PATIENCE_S) for number in range(500)]
        assert [one.result() for one in calls] == [str(number).encode() for number in range(500)]
    print("grpc ok")


def broken(port, name, code, message=""):
    with channel(port, name) as to:
        error = failure(lambda: to.unary_unary("/test.Echo/Unary")(message.encode(), timeout=PATIENCE_S))
        assert error.code().name == code, (error.code(), error.details())
        print(f"details: {error.details()}")


if __name__ == "__main__":
    verb, port, *rest = sys.argv[1:]
    {"server": server, "client": client, "broken": broken}[verb](int(port), *rest)
