"""The stub of zmq: as pyzmq where both run the same, and its clock and faults."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import zmq as pyzmq

from pd_testkit import stubs
from pd_testkit.fabric.clock import VirtualClock
from pd_testkit.stubs.zmq import build, network
from pd_testkit.stubs.zmq.constants import DEFAULTS, ROUTER_ONLY
from tests.kit import zmq_scenarios


@pytest.fixture
def stub():
    """The stub's ``zmq`` module, not installed, on a clock of its own."""
    with ExitStack() as closing:
        yield build(SimpleNamespace(clock=VirtualClock(), closing=closing))["zmq"]


@pytest.fixture
def net(stub):
    return network(stub)


@pytest.fixture
def context(stub):
    with stub.Context() as made:
        yield made


@contextmanager
def thread(work):
    """Runs ``work`` beside the block, and gives the list that its result goes to."""
    results = []
    runner = threading.Thread(target=lambda: results.append(work()))
    runner.start()
    try:
        yield results
    finally:
        runner.join(30)
        assert not runner.is_alive()


def until_blocked(net, count=1):
    """Returns when ``count`` threads are blocked in the stub."""
    with net.clock.changed:
        assert net.clock.changed.wait_for(lambda: net.waiting.blocked >= count, 30)


class Sockets:
    """A context for one scenario, whose sockets are held until they are closed."""

    def __init__(self, zmq):
        self._context = zmq.Context()
        self._made = []

    def socket(self, kind):
        self._made.append(self._context.socket(kind))
        return self._made[-1]

    def close(self):
        for socket in self._made:
            socket.close(linger=0)
        self._context.term()


def outcome(zmq, scenario):
    sockets = Sockets(zmq)
    try:
        return scenario(zmq, sockets)
    finally:
        sockets.close()


@pytest.mark.parametrize("scenario", zmq_scenarios.SCENARIOS, ids=lambda s: s.__name__)
def test_the_stub_does_what_pyzmq_does(stub, scenario):
    assert outcome(stub, scenario) == outcome(pyzmq, scenario)


def test_every_number_is_pyzmqs(stub):
    for enum in ("Errno", "ContextOption", "SocketType", "SocketOption", "Flag", "PollEvent"):
        real = {name: int(value) for name, value in getattr(pyzmq, enum).__members__.items()}
        ours = {name: int(value) for name, value in getattr(stub, enum).__members__.items()}
        assert ours == {name: real[name] for name in ours}
        assert all(int(getattr(stub, name)) == value for name, value in ours.items())


def test_every_error_text_is_pyzmqs(stub):
    for number in stub.Errno:
        assert str(stub.ZMQError(number)) == str(pyzmq.ZMQError(int(number)))
    assert issubclass(stub.Again, stub.ZMQError)
    assert stub.Again().errno == stub.EAGAIN


def test_a_new_socket_answers_pyzmqs_defaults(stub, context):
    real = Sockets(pyzmq)
    theirs = real.socket(pyzmq.ROUTER)
    with context.socket(stub.ROUTER) as socket:
        for option in DEFAULTS.keys() - ROUTER_ONLY:
            assert socket.get(option) == theirs.get(int(option)), option.name
    real.close()


def test_bind_on_every_address_and_connect_by_name(stub):
    with stub.Context() as context, context.socket(stub.PULL) as pull:
        port = pull.bind_to_random_port("tcp://*")
        assert pull.last_endpoint == b"tcp://0.0.0.0:%d" % port
        for host in ("127.0.0.1", "localhost", "node-7"):
            with context.socket(stub.PUSH) as push:
                push.connect(f"tcp://{host}:{port}")
                push.send_string(host)
            assert pull.recv_string() == host


def test_ports_of_a_range_are_given_in_order(stub):
    with stub.Context() as context:
        one, two = context.socket(stub.PULL), context.socket(stub.PULL)
        assert one.bind_to_random_port("tcp://127.0.0.1", 7000, 7010) == 7000
        assert two.bind_to_random_port("tcp://127.0.0.1", 7000, 7010) == 7001
        three = context.socket(stub.PULL)
        with pytest.raises(stub.ZMQBindError):
            three.bind_to_random_port("tcp://127.0.0.1", 7000, 7002)
        context.destroy()


def test_types_that_do_not_talk_stay_apart_over_tcp(stub, context):
    with context.socket(stub.PULL) as pull, context.socket(stub.DEALER) as dealer:
        pull.bind("tcp://127.0.0.1:7000")
        dealer.linger = 0
        dealer.connect("tcp://127.0.0.1:7000")
        dealer.send(b"x")
        assert pull.poll(0) == 0


def test_objects_are_not_pickled(stub):
    with stub.Context() as context, context.socket(stub.PAIR) as socket:
        with pytest.raises(TypeError, match="unpickling"):
            socket.send_pyobj({})
        with pytest.raises(TypeError, match="unpickling"):
            socket.recv_pyobj()


def test_what_is_not_simulated_is_refused_by_name(stub):
    with stub.Context() as context, context.socket(stub.DEALER) as socket:
        with pytest.raises(stub.ZMQError, match="does not simulate socket option 47"):
            socket.setsockopt(47, 1)
        with pytest.raises(stub.ZMQError, match="does not simulate socket type"):
            context.socket(stub.XPUB)
        with pytest.raises(AttributeError, match="no attribute 'curve_keypair'"):
            stub.curve_keypair  # noqa: B018
        with pytest.raises(TypeError, match="its own sockets only"):
            stub.Poller().register(0)


def test_a_timeout_passes_on_the_virtual_clock(stub, net):
    with stub.Context() as context, context.socket(stub.PULL) as pull:
        pull.bind("inproc://a")
        pull.rcvtimeo = 3_600_000
        with pytest.raises(stub.Again):
            pull.recv()
        assert net.clock.now == 3600
        assert pull.poll(500) == 0
        assert net.clock.now == 3600.5


def test_the_clock_stands_while_another_thread_works(stub, net):
    """A receive of 1 ms waits for a sender that is busy, however long that takes."""
    blocked, go = threading.Event(), threading.Event()
    with stub.Context() as context, context.socket(stub.PULL) as pull:
        pull.bind("inproc://a")
        pull.rcvtimeo = 1

        def send():
            with context.socket(stub.PUSH) as push:
                push.connect("inproc://a")
                blocked.set()
                assert go.wait(30)
                push.send(b"late")

        with thread(send):
            assert blocked.wait(30)
            with thread(pull.recv) as received:
                until_blocked(net)
                go.set()
            assert received == [b"late"]
            assert net.clock.now == 0


def test_an_advanced_clock_ends_a_blocked_call(stub, net):
    with stub.Context() as context, context.socket(stub.PULL) as pull:
        pull.bind("inproc://a")
        with thread(lambda: pull.poll(200)) as events:
            until_blocked(net)
            net.clock.advance(0.199)
            assert events == []
            net.clock.advance(0.001)
        assert events == [0]


def test_a_thread_that_waits_for_another_outside_does_not_hold_the_clock(stub, net, context):
    """The one that joins has used the sockets, and is blocked elsewhere."""
    net.waiting.patience = 0.01
    with context.socket(stub.PULL) as pull:
        pull.bind("inproc://a")
        with thread(lambda: pull.poll(60_000)) as events:
            pass
        assert events == [0]
        assert net.clock.now == 60


def test_a_blocked_send_goes_on_when_there_is_room(stub, net, context):
    with context.socket(stub.PULL) as pull, context.socket(stub.PUSH) as push:
        pull.rcvhwm = push.sndhwm = 1
        pull.bind("inproc://a")
        push.connect("inproc://a")
        push.send(b"1")
        push.send(b"2")
        with thread(lambda: push.send(b"3")):
            until_blocked(net)
            assert [pull.recv(), pull.recv(), pull.recv()] == [b"1", b"2", b"3"]


def test_term_ends_blocked_calls(stub, net):
    context = stub.Context()
    pull = context.socket(stub.PULL)
    pull.bind("inproc://a")

    def receive():
        with pytest.raises(stub.ContextTerminated):
            pull.recv()
        pull.close()
        return "ended"

    with thread(receive) as ended:
        until_blocked(net)
        context.term()
    assert ended == ["ended"]
    assert context.closed


def test_the_end_of_an_installation_ends_blocked_calls():
    with stubs.installed("zmq", replace=True):
        import zmq

        net = network()
        socket = zmq.Context.instance().socket(zmq.PULL)

        def receive():
            with pytest.raises(zmq.ContextTerminated):
                socket.recv()
            return "ended"

        runner = thread(receive)
        ended = runner.__enter__()
        until_blocked(net)
    runner.__exit__(None, None, None)
    assert ended == ["ended"]
    assert pyzmq.Context is not type(socket.context)


def test_linger_bounds_how_long_term_waits_for_a_listener(stub, net):
    context = stub.Context()
    push = context.socket(stub.PUSH)
    push.connect("tcp://127.0.0.1:7000")
    push.send(b"nobody listens")
    push.close(linger=1500)
    context.term()
    assert net.clock.now == 1.5


def test_a_lingering_message_reaches_a_late_listener(stub, net):
    context, other = stub.Context(), stub.Context()
    push = context.socket(stub.PUSH)
    push.connect("tcp://127.0.0.1:7000")
    push.send(b"patience")
    push.close()
    with other.socket(stub.PULL) as pull, thread(context.term):
        until_blocked(net)
        pull.bind("tcp://127.0.0.1:7000")
        assert pull.recv() == b"patience"
    other.term()


def test_dropped_messages_are_lost_and_counted(stub, net, context):
    with context.socket(stub.PULL) as pull, context.socket(stub.PUSH) as push:
        pull.bind("tcp://127.0.0.1:7000")
        push.connect("tcp://127.0.0.1:7000")
        net.faults.drop(2, when=lambda parts, endpoint: parts[0] == b"lose")
        for part in (b"keep", b"lose", b"lose", b"lose"):
            push.send(part)
        assert [pull.recv(), pull.recv()] == [b"keep", b"lose"]
        assert pull.poll(0) == 0
    assert net.faults.fired == {"drop": 2}


def test_a_delayed_message_holds_back_those_behind_it(stub, net, context):
    with context.socket(stub.PULL) as pull, context.socket(stub.PUSH) as push:
        pull.bind("tcp://127.0.0.1:7000")
        push.connect("tcp://127.0.0.1:7000")
        net.faults.delay(2.0)
        push.send(b"slow")
        push.send(b"behind it")
        assert pull.poll(1999) == 0
        assert [pull.recv(), pull.recv()] == [b"slow", b"behind it"]
        assert net.clock.now == 2.0
    assert net.faults.fired == {"delay": 1}


@pytest.mark.parametrize(("linger", "arrives"), [(0, False), (-1, True)])
def test_close_without_linger_loses_what_is_on_its_way(stub, net, linger, arrives):
    with stub.Context() as context, context.socket(stub.PULL) as pull:
        pull.bind("tcp://127.0.0.1:7000")
        push = context.socket(stub.PUSH)
        push.connect("tcp://127.0.0.1:7000")
        net.faults.delay(1.0)
        push.send(b"under way")
        push.close(linger)
        assert bool(pull.poll(1500)) is arrives


def test_a_broken_connection_keeps_what_the_connecter_sends(stub, net, context):
    endpoint = "tcp://127.0.0.1:7000"
    with context.socket(stub.ROUTER) as router, context.socket(stub.DEALER) as dealer:
        router.router_mandatory = 1
        router.bind(endpoint)
        dealer.connect(endpoint)
        dealer.send(b"before")
        before, _ = router.recv_multipart()
        net.disconnect(endpoint)
        with pytest.raises(stub.ZMQError) as gone:
            router.send_multipart([before, b"you there?"])
        dealer.send(b"meanwhile")
        assert router.poll(0) == 0
        net.reconnect(endpoint)
        after, message = router.recv_multipart()
        router.send_multipart([after, b"welcome back"])
        assert dealer.recv() == b"welcome back"
    assert gone.value.errno == stub.EHOSTUNREACH
    assert message == b"meanwhile"
    assert after != before
    assert net.faults.fired == {"disconnect": 1, "reconnect": 1}


def test_a_listener_that_comes_back_gets_its_connecters(stub):
    endpoint = "tcp://127.0.0.1:7000"
    with stub.Context() as context, context.socket(stub.PUSH) as push:
        first = context.socket(stub.PULL)
        first.bind(endpoint)
        push.connect(endpoint)
        first.close()
        push.send(b"to whoever comes")
        with context.socket(stub.PULL) as second:
            second.bind(endpoint)
            assert second.recv() == b"to whoever comes"


def test_instance_is_shared_until_it_is_closed(stub):
    one = stub.Context.instance()
    assert stub.Context.instance() is one
    assert stub.asyncio.Context.instance() is not one
    one.term()
    assert stub.Context.instance() is not one


def test_asyncio_sockets_wait_without_blocking_the_loop(stub, net):
    async def main():
        context = stub.asyncio.Context()
        router, dealer = context.socket(stub.ROUTER), context.socket(stub.DEALER)
        router.bind("inproc://a")
        dealer.connect("inproc://a")
        question = asyncio.ensure_future(router.recv_multipart())
        await asyncio.sleep(0)
        assert not question.done()
        await dealer.send_json({"n": 1})
        name, _ = await question
        await router.send_multipart([name, b"text"])
        assert await dealer.recv_string() == "text"
        poller = stub.asyncio.Poller()
        poller.register(dealer, stub.POLLIN)
        late = poller.poll(1000)
        dealer.rcvtimeo = 2000
        never = dealer.recv()
        net.clock.advance(1.0)
        assert await late == []
        assert not never.done()
        net.clock.advance(1.0)
        with pytest.raises(stub.Again):
            await never
        context.destroy(linger=0)

    asyncio.run(main())


def test_installing_puts_the_parts_in_place_and_takes_them_out():
    with stubs.installed("zmq", replace=True) as active:
        import zmq
        import zmq.asyncio
        from zmq.error import ContextTerminated

        assert zmq is active.modules["zmq"]
        assert issubclass(zmq.asyncio.Socket, zmq.Socket)
        assert issubclass(ContextTerminated, zmq.ZMQError)
    import zmq as after

    assert after is pyzmq
