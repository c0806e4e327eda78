"""Small ZeroMQ scenarios that give plain values, for real pyzmq and for the stub alike."""

from __future__ import annotations

import itertools

_names = itertools.count()


def _pair(zmq, context, left, right, **options):
    """A bound socket of type ``left`` and a connected one of type ``right``, over inproc."""
    endpoint = f"inproc://{next(_names)}"
    sockets = []
    for kind in (left, right):
        socket = context.socket(getattr(zmq, kind))
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = 2000
        for option, value in options.items():
            socket.setsockopt(getattr(zmq, option), value)
        sockets.append(socket)
    sockets[0].bind(endpoint)
    sockets[1].connect(endpoint)
    return sockets


def _error(zmq, call, *args, **kwargs):
    """The kind and number of the error that a call raises."""
    try:
        call(*args, **kwargs)
    except zmq.ZMQError as error:
        return type(error).__name__, int(error.errno)
    return "no error"


def request_and_reply(zmq, context):
    rep, req = _pair(zmq, context, "REP", "REQ")
    seen = [
        _error(zmq, req.recv, zmq.NOBLOCK),
        _error(zmq, rep.send, b"early", zmq.NOBLOCK),
    ]
    req.send_multipart([b"a", b"", b"b"])
    seen.append(_error(zmq, req.send, b"again"))
    seen.append(rep.recv_multipart())
    seen.append(_error(zmq, rep.recv, zmq.NOBLOCK))
    rep.send_string("Grüße")
    seen.append(req.recv_string())
    req.send_json({"x": [1, None]})
    seen.append(rep.recv())
    return seen


def router_adds_and_takes_routing_ids(zmq, context):
    endpoint = f"inproc://{next(_names)}"
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.rcvtimeo = 2000
    router.bind(endpoint)
    named = context.socket(zmq.DEALER)
    named.setsockopt(zmq.IDENTITY, b"worker-1")
    anonymous = context.socket(zmq.DEALER)
    seen = []
    for dealer in (named, anonymous):
        dealer.linger = 0
        dealer.rcvtimeo = 2000
        dealer.connect(endpoint)
        dealer.send_multipart([b"", b"hello"])
        routing_id, *rest = router.recv_multipart()
        seen.append((len(routing_id), routing_id[:1], rest))
        router.send_multipart([routing_id, b"back"])
        seen.append(dealer.recv_multipart())
    router.send_multipart([b"nobody", b"lost"])
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    seen.append(_error(zmq, router.send_multipart, [b"nobody", b"lost"]))
    seen.append(named.identity)
    return seen


def router_with_req_shows_the_delimiter(zmq, context):
    router, req = _pair(zmq, context, "ROUTER", "REQ")
    req.send(b"ask")
    routing_id, *rest = router.recv_multipart()
    router.send_multipart([routing_id, b"", b"answer"])
    return rest, req.recv()


def dealer_with_rep_needs_the_delimiter(zmq, context):
    rep, dealer = _pair(zmq, context, "REP", "DEALER")
    dealer.send(b"no envelope")
    dealer.send_multipart([b"hop", b"", b"question"])
    question = rep.recv_multipart()
    rep.send(b"answer")
    return question, dealer.recv_multipart()


def _second_of_one_name(zmq, context, handover):
    endpoint = f"inproc://{next(_names)}"
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.rcvtimeo = 50
    router.setsockopt(zmq.ROUTER_HANDOVER, handover)
    router.bind(endpoint)
    seen = []
    for word in (b"first", b"second"):
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.rcvtimeo = 50
        dealer.setsockopt(zmq.IDENTITY, b"twin")
        dealer.connect(endpoint)
        dealer.send(word)
        seen.append((dealer, _try(zmq, router.recv_multipart)))
    router.send_multipart([b"twin", b"for you"])
    return [(got, _try(zmq, dealer.recv)) for dealer, got in seen]


def _try(zmq, call):
    try:
        return call()
    except zmq.ZMQError as error:
        return type(error).__name__


def second_peer_of_one_name_is_ignored(zmq, context):
    return _second_of_one_name(zmq, context, 0)


def handover_gives_the_name_to_the_second(zmq, context):
    return _second_of_one_name(zmq, context, 1)


def push_goes_round(zmq, context):
    endpoint = f"inproc://{next(_names)}"
    push = context.socket(zmq.PUSH)
    push.linger = 0
    push.bind(endpoint)
    pulls = []
    for _ in range(3):
        pull = context.socket(zmq.PULL)
        pull.rcvtimeo = 2000
        pull.connect(endpoint)
        pulls.append(pull)
    push.poll(2000, zmq.POLLOUT)
    for number in range(9):
        push.send(b"%d" % number)
    # Which pull is first is libzmq's choice; that the turns are even is the promise.
    return sorted([pull.recv() for _ in range(3)] for pull in pulls)


def pull_is_fair(zmq, context):
    endpoint = f"inproc://{next(_names)}"
    pull = context.socket(zmq.PULL)
    pull.rcvtimeo = 2000
    pull.bind(endpoint)
    for name in (b"a", b"b", b"c"):
        push = context.socket(zmq.PUSH)
        push.linger = 0
        push.connect(endpoint)
        for number in range(2 if name == b"b" else 3):
            push.send(name + b"%d" % number)
    return [pull.recv() for _ in range(8)]


def high_water_mark_of_push(zmq, context):
    pull, push = _pair(zmq, context, "PULL", "PUSH", SNDHWM=2, RCVHWM=3)
    sent = _fill(zmq, push)
    freed = []
    for _ in range(5):
        pull.recv()
        push.poll(20, zmq.POLLOUT)  # lets libzmq's push hear of it
        freed.append(_fill(zmq, push))
    return sent, freed, push.getsockopt(zmq.EVENTS)


def _fill(zmq, socket):
    for number in itertools.count():
        try:
            socket.send(b"x", zmq.NOBLOCK)
        except zmq.Again:
            return number
        if number > 10_000:
            return "no limit"
    return None


def high_water_mark_before_a_peer(zmq, context):
    push = context.socket(zmq.PUSH)
    push.linger = 0
    push.sndhwm = 4
    endpoint = f"inproc://{next(_names)}"
    alone = _fill(zmq, push)
    push.connect(endpoint)
    connected = _fill(zmq, push)
    pull = context.socket(zmq.PULL)
    pull.rcvhwm = 3
    pull.rcvtimeo = 2000
    pull.bind(endpoint)
    push.poll(20, zmq.POLLOUT)
    bound = _fill(zmq, push)
    return alone, connected, bound, [pull.recv() for _ in range(4 + bound)]


def _settle(pub, sub, topic=b""):
    """Until libzmq's pub has heard of the subscription; nothing is left to read."""
    for _ in range(100):
        pub.send(topic)
        if sub.poll(20):
            break
    while sub.poll(5):
        sub.recv()


def router_and_pub_drop_at_the_mark(zmq, context):
    sub, pub = _pair(zmq, context, "SUB", "PUB", SNDHWM=1, RCVHWM=1)
    sub.subscribe("")
    _settle(pub, sub)
    for number in range(5):
        pub.send(b"%d" % number)
    got = []
    while sub.poll(20):
        got.append(sub.recv())
    dealer, router = _pair(zmq, context, "DEALER", "ROUTER", SNDHWM=1, RCVHWM=1, IDENTITY=b"me")
    dealer.send(b"hello")
    name = router.recv_multipart()[0]
    for number in range(5):
        router.send_multipart([name, b"%d" % number])
    while dealer.poll(20):
        got.append(dealer.recv())
    return got


def subscriptions_are_prefixes(zmq, context):
    sub, pub = _pair(zmq, context, "SUB", "PUB")
    pub.send(b"before any subscription")
    sub.setsockopt(zmq.SUBSCRIBE, b"kv.")
    sub.subscribe("metrics")
    sub.subscribe("metrics")
    sub.unsubscribe("metrics")
    _settle(pub, sub, b"kv.probe")
    for topic in (b"kv.stored", b"kv", b"metrics.ttft", b"other"):
        pub.send_multipart([topic, b"body"])
    got = [sub.recv_multipart() for _ in range(2)]
    return got, sub.poll(20), _error(zmq, sub.send, b"x"), _error(zmq, pub.recv)


def one_way_sockets(zmq, context):
    pull, push = _pair(zmq, context, "PULL", "PUSH")
    return [
        _error(zmq, pull.send, b"x"),
        _error(zmq, push.recv),
        _error(zmq, push.setsockopt, zmq.SUBSCRIBE, b""),
        _error(zmq, push.getsockopt, zmq.SUBSCRIBE),
    ]


def parts_and_frames(zmq, context):
    one, two = _pair(zmq, context, "PAIR", "PAIR")
    one.send(b"a", zmq.SNDMORE)
    before = two.poll(50)
    one.send_multipart([bytearray(b"b"), memoryview(b"c")])
    seen = []
    while True:
        seen.append((two.recv(), two.getsockopt(zmq.RCVMORE), two.rcvmore))
        if not two.rcvmore:
            break
    two.send(b"frame", copy=False)
    frame = one.recv(copy=False)
    return before, seen, frame.bytes, bytes(frame), len(frame), frame.more, bytes(frame.buffer)


def bad_arguments(zmq, context):
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    seen = [
        _error(zmq, socket.bind, address)
        for address in ("nowhere", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "carrier://a:1")
    ]
    seen += [_error(zmq, socket.connect, address) for address in ("tcp://*:1", "tcp://a:b")]
    for call, args in (
        (socket.send, ("text",)),
        (socket.send_multipart, ([1],)),
        (socket.setsockopt, (zmq.LINGER, "1")),
        (socket.setsockopt, (zmq.IDENTITY, "me")),
        (socket.send_string, (b"x",)),
    ):
        try:
            call(*args)
        except TypeError:
            seen.append("TypeError")
    seen.append(_error(zmq, socket.unbind, "inproc://never"))
    seen.append(_error(zmq, socket.disconnect, "inproc://never"))
    socket.close()
    seen.append(_error(zmq, socket.send, b"x"))
    seen.append(_error(zmq, socket.getsockopt, zmq.LINGER))
    return seen


def an_address_is_taken(zmq, context):
    one, two = context.socket(zmq.PULL), context.socket(zmq.PULL)
    port = one.bind_to_random_port("tcp://127.0.0.1")
    endpoint = f"tcp://127.0.0.1:{port}"
    seen = [
        one.getsockopt(zmq.LAST_ENDPOINT) == endpoint.encode(),
        _error(zmq, two.bind, endpoint),
        _error(zmq, two.bind, f"tcp://*:{port}"),
    ]
    with one.bind("inproc://taken"):
        seen.append(_error(zmq, two.bind, "inproc://taken"))
    seen.append(_error(zmq, two.bind, "inproc://taken"))
    return seen


def what_a_closed_peer_sent_can_be_read(zmq, context):
    pull, push = _pair(zmq, context, "PULL", "PUSH")
    push.send(b"one")
    push.send(b"two")
    push.close()
    return pull.recv(), pull.recv(), pull.poll(50)


def messages_wait_for_a_bind(zmq, context):
    endpoint = f"inproc://{next(_names)}"
    push = context.socket(zmq.PUSH)
    push.linger = 0
    push.connect(endpoint)
    push.send(b"early")
    pull = context.socket(zmq.PULL)
    pull.rcvtimeo = 2000
    pull.bind(endpoint)
    return pull.recv()


def timeouts(zmq, context):
    pull, push = _pair(zmq, context, "PULL", "PUSH", SNDHWM=1, RCVHWM=1)
    pull.rcvtimeo = push.sndtimeo = 20
    seen = [_error(zmq, pull.recv), pull.poll(5), _error(zmq, pull.recv, zmq.NOBLOCK)]
    push.send(b"1")
    push.send(b"2")
    seen.append(_error(zmq, push.send, b"3"))
    poller = zmq.Poller()
    poller.register(pull, zmq.POLLIN)
    poller.register(push, zmq.POLLOUT)
    seen.append([(s is pull, int(e)) for s, e in poller.poll(5)])
    poller.unregister(pull)
    seen.append(poller.poll(5))
    poller.modify(push, 0)
    seen.append((pull in poller, push in poller))
    return seen


def a_terminated_context(zmq, context):
    other = zmq.Context()
    socket = other.socket(zmq.PULL)
    seen = [socket.closed, other.closed]
    other.destroy(linger=0)
    return [*seen, socket.closed, other.closed, _error(zmq, other.socket, zmq.PULL)]


def options_as_attributes(zmq, context):
    socket = context.socket(zmq.DEALER)
    socket.linger = 7
    socket.identity = b"me"
    socket.hwm = 5
    seen = [socket.getsockopt(zmq.LINGER), socket.LINGER, socket.routing_id]
    seen += [socket.sndhwm, socket.rcvhwm, socket.hwm, int(socket.type), socket.get_hwm()]
    seen.append(socket.get_string(zmq.IDENTITY))
    for name in ("no_such_option", "subscribe_to"):
        try:
            getattr(socket, name)
        except AttributeError:
            seen.append("AttributeError")
    other = zmq.Context()
    other.sndhwm = 11
    with other.socket(zmq.PUSH) as later:
        seen.append(later.sndhwm)
    other.term()
    return seen


SCENARIOS = [
    value
    for name, value in list(globals().items())
    if callable(value) and not name.startswith("_") and value.__module__ == __name__
]
