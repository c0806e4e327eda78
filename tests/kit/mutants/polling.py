"""Planted bugs that the polling clauses catch: what arrives, and the states."""

from __future__ import annotations

from .mutant import Mutant
from .polling_ends import ENDS

MUTANTS = (
    Mutant(
        ("POL-001", "POL-007"),
        "room_memory",
        "for name, handle in caches.items():",
        "for name, handle in list(caches.items())[1:]:",
        "one cache is left out of every transfer",
    ),
    Mutant(
        ("POL-002", "POL-011"),
        "room_memory",
        "        for buffer, region, handle in zip(self.aux, self._aux, handles, strict=True):",
        "        for buffer, region, handle in ():",
        "the aux data are never sent",
    ),
    Mutant(
        ("POL-003",),
        "rooms",
        "            outgoing.state = State.SUCCESS\n",
        "            outgoing.state = State.SUCCESS\n"
        "            if (to := outgoing.there) is not None:\n"
        "                self.memory.write_aux(outgoing.aux_slot, to.aux, to.aux_slot)\n",
        "the aux data are sent once more when P's slot may belong to another request",
    ),
    Mutant(
        ("POL-008",),
        "rooms",
        "        if pages:\n",
        "        if pages and not outgoing.sent:\n",
        "only the first chunk's pages are sent",
    ),
    Mutant(
        ("POL-004",),
        "room_memory",
        "mine = np.asarray(ours, dtype=np.int64)",
        "mine = np.sort(np.asarray(ours, dtype=np.int64))",
        "P's pages are sorted for longer runs, and D's are not",
    ),
    Mutant(
        ("POL-005",),
        "room_memory",
        "session.write([slot * size], [place * size], [size])",
        "session.write([0], [0], [buffer.nbytes])",
        "the whole aux buffer is sent, with all requests' slots",
    ),
    Mutant(
        ("POL-006",),
        "rooms",
        "        outgoing.state = State.TRANSFERRING\n",
        "        outgoing.state = State.TRANSFERRING\n"
        "        self.memory.aux[0][outgoing.aux_slot] = 0\n",
        "P's slot is wiped for its next owner before its data are sent",
    ),
    Mutant(
        ("POL-008",),
        "rooms",
        "there.pages[outgoing.sent : outgoing.sent + len(pages)]",
        "there.pages[: len(pages)]",
        "every chunk is written over the first one",
    ),
    Mutant(
        ("POL-009",),
        "rooms",
        "        if outgoing.sent == announced:\n",
        "        if outgoing.sent >= min(1, announced):\n",
        "the first chunk is taken for the last",
    ),
    Mutant(
        ("POL-010",),
        "rooms",
        """        if pages:
            places = there.pages[outgoing.sent : outgoing.sent + len(pages)]
            outgoing.transfers += self.memory.write_pages(pages, there.caches, places)
        outgoing.sent += len(pages)
        if outgoing.sent == announced:
            outgoing.transfers += self.memory.write_aux(""",
        """        places = there.pages[outgoing.sent : outgoing.sent + len(pages)]
        outgoing.transfers += self.memory.write_pages(pages, there.caches, places)
        outgoing.sent += len(pages)
        if outgoing.sent == announced:
            outgoing.complete = True
        if outgoing.sent == len(pages):
            outgoing.transfers += self.memory.write_aux(""",
        "the aux data go with the first chunk, before there is a first token",
    ),
    Mutant(
        ("POL-011",),
        "rooms",
        "        if outgoing.sent == announced:\n",
        "        if pages and outgoing.sent == announced:\n",
        "an empty last chunk is skipped: a prompt that D has cached never ends",
    ),
    Mutant(
        ("POL-012",),
        "room_memory",
        "np.full(len(mine), size)",
        "np.full(len(mine), size) * (np.arange(len(mine)) < 512)",
        "a batch holds no more than 512 pages",
    ),
    Mutant(
        ("POL-013",),
        "room_memory",
        "size = region.handle.size // self.pages.num_blocks",
        'size = region.handle.size // self.pages.num_blocks // (1 + ("." not in name))',
        "a latent page is taken for half of a K and a V",
    ),
    Mutant(
        ("POL-014",),
        "rooms",
        "        if not outgoing.transfers:\n            outgoing.state = State.SUCCESS\n",
        "        if outgoing.complete:\n            outgoing.state = State.SUCCESS\n",
        "success is said when the last chunk is posted, not when it has landed",
    ),
    Mutant(
        ("POL-015",),
        "rooms",
        "        outgoing.sent += len(pages)\n",
        "        outgoing.sent += len(pages)\n"
        "        if outgoing.sent < announced:\n"
        "            outgoing.state = State.BOOTSTRAPPING\n",
        "between two chunks a sender says that it has no receiver",
    ),
    Mutant(
        ("POL-016",),
        "rooms",
        "            if incoming.state is State.BOOTSTRAPPING and self._met:\n",
        "            if incoming.said_where and incoming.state is State.WAITING_FOR_INPUT:\n"
        "                incoming.state = State.BOOTSTRAPPING\n"
        "            elif incoming.state is State.BOOTSTRAPPING and self._met:\n",
        "a receiver that has said where goes back to its beginning",
    ),
    Mutant(
        ("POL-017",),
        "rooms",
        '            if there.kind == "where":\n',
        "            if there.kind:\n",
        "a receiver that is only opened counts as one that has said where",
    ),
    Mutant(
        ("POL-018",),
        "rooms",
        "        outgoing = self._rooms.get(room)\n        return",
        "        outgoing = self._rooms.get(room)\n"
        "        if outgoing is not None and outgoing.state is State.SUCCESS:\n"
        "            self._rooms[room] = _Outgoing(outgoing.since)\n"
        "            return State.SUCCESS\n"
        "        return",
        "a success is told once",
    ),
    Mutant(
        ("POL-019", "POL-039"),
        "rooms",
        "        if outgoing.state.ended:\n            return\n        there",
        "        if outgoing.state is State.SUCCESS:\n            return\n        there",
        "a chunk that is sent after an abort brings the room back to life",
    ),
    Mutant(
        ("POL-020",),
        "rooms",
        "        self._ended[room] = outgoing.state\n",
        "",
        "a room that is cleared is unknown: the last poll in the same step raises",
    ),
    Mutant(
        ("POL-021",),
        "rooms",
        "        if outgoing.state.ended:\n            return\n        outgoing.state",
        "        if outgoing.state is State.FAILED:\n            return\n        outgoing.state",
        "a late abort makes a failure of a success",
    ),
    Mutant(
        ("POL-022",),
        "rooms",
        "outgoing.aux_slot, there.aux",
        "max(each.aux_slot for each in self._rooms.values()), there.aux",
        "the aux slot is that of the request that came last (sgl-project/sglang#17259)",
    ),
    Mutant(
        ("POL-023",),
        "rooms",
        "        outgoing = self._rooms.get(message.room)\n        early",
        "        waiting = (o for o in self._rooms.values() if o.state is State.BOOTSTRAPPING)\n"
        "        outgoing = next(waiting, None)\n        early",
        "rooms are matched in the order in which they are opened",
    ),
    Mutant(
        ("POL-024",),
        "rooms",
        "                self._early[message.room] = message\n",
        '                self._answer(message, "quiet")\n',
        "a receiver that comes before its sender is forgotten",
    ),
    Mutant(
        ("POL-025", "POL-029"),
        "rooms",
        "now - outgoing.since >= self._patience_s",
        "now - outgoing.since >= 0.05",
        "P's patience is a constant that is far too short",
    ),
    Mutant(
        ("POL-026",),
        "rooms",
        "outgoing = self._rooms.pop(room)",
        "outgoing = self._rooms[room]",
        "a room that is cleared stays open on P",
    ),
    Mutant(
        ("POL-027",),
        "rooms",
        "outgoing = self._rooms.pop(room)",
        "outgoing = self._rooms[room]\n"
        "        if outgoing.state is not State.FAILED:\n"
        "            del self._rooms[room]",
        "a failed room that is cleared stays open on P (sgl-project/sglang#27374)",
    ),
    Mutant(
        ("POL-028",),
        "room_memory",
        "        found = []\n        for name, handle in caches.items():",
        "        found = []\n"
        "        if (again := tuple(ours)) in vars(self).setdefault('_sent', set()):\n"
        "            return []\n"
        "        self._sent.add(again)\n"
        "        for name, handle in caches.items():",
        "pages that were sent once are not sent again, whatever they hold now",
    ),
    *ENDS,
)
