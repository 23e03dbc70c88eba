"""Who waits for a place at a limit, and who is next: classes by importance, tenants within a class by fair shares.

Levels are strict: while somebody waits in a more important one, nobody of another goes on. Within a level each tenant
has a flow of its own, first in, first out. The flow that has had least goes on next: start-time fair queueing (Goyal,
Vin and Cheng), as Kubernetes' API Priority and Fairness does. What is shared is not the number of requests but the time
for which they take a place, divided by the tenant's weight. A guess of it is charged when one goes on, and made good when it is
over. A flow that was quiet begins at the virtual time of the level: it can save nothing up.

A flow exists while somebody of it waits or is under way, and while it is ahead of the virtual time (KEPT of those at
most). So there are never more than that, however many tenants there are.

When there is no room, the last of the longest flow of the least important level goes: who comes takes the place of
one who has more there than itself, or goes itself.

CoDel, as Facebook's wangle has it: when all who went on within `interval` had waited for longer than `target`, those of
the flow that have waited for more than twice the target are shed, until one goes on sooner. A flow that somebody comes
to while it is empty has no standing queue: who asks now and then is never shed.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset


cdef inline bint sooner(Turn *a, Turn *b) noexcept nogil:
    return a.start < b.start or (a.start == b.start and a.order < b.order)


cdef inline uint64_t spread(uint64_t key, int level) noexcept nogil:
    key += <uint64_t>level * 0x9e3779b97f4a7c15u
    key = (key ^ (key >> 32)) * 0xd6e8feb86659fd93u
    return key ^ (key >> 32)


cdef class FairQueue:
    """`room` waiters in `levels` classes; `target` and `interval` in ns, 0 for no CoDel."""

    def __cinit__(self, int levels=1, int room=1, int64_t target=0, int64_t interval=0):
        cdef int i
        if not 1 <= levels <= LEVELS or room < 1:
            raise ValueError(f"1 to {LEVELS} levels, and room for one at least")
        self.levels = levels
        self.room = room
        self.target = target
        self.interval = interval
        self.typical = 1_000_000
        self.waiters_free = self.flows_free = self.idle_first = self.idle_last = -1
        self.oldest_one = self.newest_one = -1
        self.held = []
        self.names = []
        memset(self.level, 0, sizeof(self.level))
        self.table_mask = 15
        self.table = <int*>malloc(16 * sizeof(int))
        if self.table == NULL:
            raise MemoryError()
        for i in range(16):
            self.table[i] = -1

    def __dealloc__(self):
        cdef int i
        free(self.waiters)
        free(self.flows)
        free(self.table)
        for i in range(LEVELS):
            free(self.level[i].heap)
            free(self.level[i].lengths)

    # ------------------------------------------------------------------ flows

    cdef int _find(self, uint64_t key, int level) noexcept:
        cdef int i = self.table[spread(key, level) & <uint64_t>self.table_mask]
        while i >= 0 and (self.flows[i].key != key or self.flows[i].level != level):
            i = self.flows[i].chain
        return i

    cdef int _grow_flows(self) except -1:
        cdef int room = max(16, 2 * self.flows_room), i, at
        cdef Flow *flows = <Flow*>realloc(self.flows, room * sizeof(Flow))
        cdef int *table
        if flows == NULL:
            raise MemoryError()
        self.flows = flows
        table = <int*>realloc(self.table, 2 * room * sizeof(int))
        if table == NULL:
            raise MemoryError()
        self.table = table
        self.flows_room = room
        self.table_mask = 2 * room - 1
        for i in range(2 * room):
            table[i] = -1
        for i in range(self.flows_made):
            if flows[i].level >= 0:
                at = spread(flows[i].key, flows[i].level) & <uint64_t>self.table_mask
                flows[i].chain = table[at]
                table[at] = i
        return 0

    cdef int _make(self, uint64_t key, bytes name, int level, int weight) except -1:
        cdef int i = self.flows_free, at
        cdef Flow *flow
        if i >= 0:
            self.flows_free = self.flows[i].chain
            self.names[i] = name
        else:
            if self.flows_made == self.flows_room:
                self._grow_flows()
            i = self.flows_made
            self.flows_made += 1
            self.names.append(name)
        flow = &self.flows[i]
        memset(flow, 0, sizeof(Flow))
        flow.key = key
        flow.level = level
        flow.weight = weight
        flow.head = flow.tail = flow.place = flow.before = flow.after = -1
        at = spread(key, level) & <uint64_t>self.table_mask
        flow.chain = self.table[at]
        self.table[at] = i
        self.flows_used += 1
        self.level[level].known += 1
        return i

    cdef int _free(self, int i) except -1:
        cdef Flow *flow = &self.flows[i]
        cdef int *link = &self.table[spread(flow.key, flow.level) & <uint64_t>self.table_mask]
        while link[0] != i:
            link = &self.flows[link[0]].chain
        link[0] = flow.chain
        self.level[flow.level].known -= 1
        if self.level[flow.level].known == 0:
            self.level[flow.level].now = 0           # nobody is ahead of anybody: the clock begins anew
        flow.level = -1
        flow.chain = self.flows_free
        self.flows_free = i
        self.flows_used -= 1
        self.names[i] = None
        return 0

    cdef int _settle(self, int i) except -1:
        """Nobody of it waits or is under way any more: it is forgotten, unless it has had more than the others."""
        cdef Flow *flow = &self.flows[i]
        if flow.length or flow.running:
            return 0
        if flow.start <= self.level[flow.level].now:
            return self._free(i)
        flow.before = self.idle_last
        flow.after = -1
        if self.idle_last >= 0:
            self.flows[self.idle_last].after = i
        else:
            self.idle_first = i
        self.idle_last = i
        self.idle += 1
        return self._sweep()

    cdef void _unidle(self, int i) noexcept:
        cdef Flow *flow = &self.flows[i]
        if flow.before >= 0:
            self.flows[flow.before].after = flow.after
        else:
            self.idle_first = flow.after
        if flow.after >= 0:
            self.flows[flow.after].before = flow.before
        else:
            self.idle_last = flow.before
        self.idle -= 1

    cdef int _sweep(self) except -1:
        """Of those that are idle the first, when the others have caught up with it, or there are too many."""
        cdef int i = self.idle_first
        if i >= 0 and (self.idle > KEPT or self.flows[i].start <= self.level[self.flows[i].level].now):
            self._unidle(i)
            self._free(i)
        return 0

    # ------------------------------------------------------------------ flows of a level by their length

    cdef int _list(self, int i) except -1:
        cdef Flow *flow = &self.flows[i]
        cdef Level *level = &self.level[flow.level]
        cdef int bucket = (flow.length + flow.weight - 1) // flow.weight, room, k
        cdef int *lengths
        if bucket >= level.lengths_room:
            room = max(16, 2 * bucket)
            lengths = <int*>realloc(level.lengths, room * sizeof(int))
            if lengths == NULL:
                raise MemoryError()
            for k in range(level.lengths_room, room):
                lengths[k] = -1
            level.lengths = lengths
            level.lengths_room = room
        flow.bucket = bucket
        flow.before = -1
        flow.after = level.lengths[bucket]
        if flow.after >= 0:
            self.flows[flow.after].before = i
        level.lengths[bucket] = i
        if bucket > level.longest:
            level.longest = bucket
        return 0

    cdef void _unlist(self, int i) noexcept:
        cdef Flow *flow = &self.flows[i]
        cdef Level *level = &self.level[flow.level]
        if flow.before >= 0:
            self.flows[flow.before].after = flow.after
        else:
            level.lengths[flow.bucket] = flow.after
        if flow.after >= 0:
            self.flows[flow.after].before = flow.before

    # ------------------------------------------------------------------ flows of a level by what they have had

    cdef void _up(self, Level *level, int at, Turn moved) noexcept:
        cdef int above
        while at > 0:
            above = (at - 1) >> 2
            if not sooner(&moved, &level.heap[above]):
                break
            level.heap[at] = level.heap[above]
            self.flows[level.heap[at].flow].place = at
            at = above
        level.heap[at] = moved
        self.flows[moved.flow].place = at

    cdef void _down(self, Level *level, int at, Turn moved) noexcept:
        cdef int below, best, last
        while True:
            below = 4 * at + 1
            if below >= level.active:
                break
            best = below
            last = min(below + 4, level.active)
            below += 1
            while below < last:
                if sooner(&level.heap[below], &level.heap[best]):
                    best = below
                below += 1
            if not sooner(&level.heap[best], &moved):
                break
            level.heap[at] = level.heap[best]
            self.flows[level.heap[at].flow].place = at
            at = best
        level.heap[at] = moved
        self.flows[moved.flow].place = at

    cdef int _enheap(self, int i) except -1:
        cdef Level *level = &self.level[self.flows[i].level]
        cdef Turn turn
        cdef Turn *heap
        if level.active == level.room:
            heap = <Turn*>realloc(level.heap, max(16, 2 * level.room) * sizeof(Turn))
            if heap == NULL:
                raise MemoryError()
            level.heap = heap
            level.room = max(16, 2 * level.room)
        self.orders += 1
        turn.start = self.flows[i].start
        turn.order = self.orders
        turn.flow = i
        level.active += 1
        self._up(level, level.active - 1, turn)
        return 0

    cdef void _unheap(self, int i) noexcept:
        cdef Level *level = &self.level[self.flows[i].level]
        cdef int at = self.flows[i].place
        cdef Turn last
        self.flows[i].place = -1
        level.active -= 1
        if at == level.active:
            return
        last = level.heap[level.active]
        if at > 0 and sooner(&last, &level.heap[(at - 1) >> 2]):
            self._up(level, at, last)
        else:
            self._down(level, at, last)

    # ------------------------------------------------------------------ in and out

    cdef int push(self, uint64_t key, bytes name, int level, int weight, int64_t now, object what) except -1:
        """The waiter. There has to be room."""
        cdef int i = self._find(key, level), w = self.waiters_free
        cdef Flow *flow
        cdef Waiter *waiter
        cdef Waiter *grown
        if i < 0:
            i = self._make(key, name, level, weight)
        elif self.flows[i].length == 0 and self.flows[i].running == 0:
            self._unidle(i)
        if w >= 0:
            self.waiters_free = self.waiters[w].next
            self.held[w] = what
        else:
            if self.waiters_made == self.waiters_room:
                grown = <Waiter*>realloc(self.waiters, max(64, 2 * self.waiters_room) * sizeof(Waiter))
                if grown == NULL:
                    raise MemoryError()
                self.waiters = grown
                self.waiters_room = max(64, 2 * self.waiters_room)
            w = self.waiters_made
            self.waiters_made += 1
            self.held.append(what)
        flow = &self.flows[i]
        waiter = &self.waiters[w]
        waiter.flow = i
        waiter.at = now
        waiter.next = -1
        waiter.prev = flow.tail
        if flow.length:
            self.waiters[flow.tail].next = w
            self._unlist(i)
        else:
            flow.head = w
            flow.weight = weight
            flow.late = False
            flow.least = 0
            if flow.start < self.level[level].now:
                flow.start = self.level[level].now
            self._enheap(i)
        flow.tail = w
        flow.length += 1
        self._list(i)
        waiter.newer = -1
        waiter.older = self.newest_one
        if self.newest_one >= 0:
            self.waiters[self.newest_one].newer = w
        else:
            self.oldest_one = w
        self.newest_one = w
        self.level[level].waiting += 1
        self.count += 1
        return w

    cdef object remove(self, int w):
        cdef Waiter *waiter = &self.waiters[w]
        cdef int i = waiter.flow
        cdef Flow *flow = &self.flows[i]
        cdef object what = self.held[w]
        cdef Level *level
        self.held[w] = None
        self._unlist(i)
        if waiter.prev >= 0:
            self.waiters[waiter.prev].next = waiter.next
        else:
            flow.head = waiter.next
        if waiter.next >= 0:
            self.waiters[waiter.next].prev = waiter.prev
        else:
            flow.tail = waiter.prev
        if waiter.older >= 0:
            self.waiters[waiter.older].newer = waiter.newer
        else:
            self.oldest_one = waiter.newer
        if waiter.newer >= 0:
            self.waiters[waiter.newer].older = waiter.older
        else:
            self.newest_one = waiter.older
        waiter.next = self.waiters_free
        self.waiters_free = w
        flow.length -= 1
        self.level[flow.level].waiting -= 1
        self.count -= 1
        if flow.length:
            self._list(i)
        else:
            self._unheap(i)
        level = &self.level[flow.level]
        while level.longest > 0 and level.lengths[level.longest] < 0:
            level.longest -= 1                       # once: it is in the next list, or was alone in the first
        self._settle(i)
        return what

    cdef int victim(self, uint64_t key, int level, int weight) noexcept:
        cdef int least = self.levels - 1, i, mine
        while least > 0 and self.level[least].waiting == 0:
            least -= 1
        if level > least:
            return -1
        if level == least:
            i = self._find(key, level)
            mine = 1 if i < 0 else (self.flows[i].length + weight) // weight
            if mine >= self.level[least].longest:
                return -1
        return self.flows[self.level[least].lengths[self.level[least].longest]].tail

    cdef inline int first_level(self) noexcept:
        cdef int i
        for i in range(self.levels):
            if self.level[i].waiting:
                return i
        return self.levels

    cdef int oldest(self) noexcept:
        return self.oldest_one

    cdef bint _delayed(self, Flow *flow, int64_t delay, int64_t now) noexcept:
        if now > flow.until:
            flow.late = flow.until > 0 and flow.least > self.target
            flow.until = now + self.interval
            flow.least = delay
            return False                              # one at least goes on in each interval
        if delay < flow.least:
            flow.least = delay
        return flow.late and delay > 2 * self.target

    cdef int next(self, int level, int64_t now, bint *shed) noexcept:
        cdef Flow *flow = &self.flows[self.level[level].heap[0].flow]
        shed[0] = self.target > 0 and self._delayed(flow, now - self.waiters[flow.head].at, now)
        return flow.head

    cdef int go(self, int w) except -1:
        """Call `remove` next, then `charge`."""
        cdef int i = self.waiters[w].flow
        cdef Flow *flow = &self.flows[i]
        self.level[flow.level].now = flow.start
        flow.running += 1
        self._sweep()
        return i

    cdef int64_t charge(self, int i) except -1:
        cdef Flow *flow = &self.flows[i]
        cdef Level *level = &self.level[flow.level]
        cdef Turn turn
        flow.start += <double>self.typical / flow.weight
        if flow.place >= 0:
            self.orders += 1
            turn.start = flow.start
            turn.order = self.orders
            turn.flow = i
            self._down(level, flow.place, turn)
        return self.typical

    cdef int over(self, int i, int64_t charged, int64_t took) except -1:
        """One that went on is over, after `took` ns; `charged` is what `charge` said."""
        cdef Flow *flow = &self.flows[i]
        cdef Level *level = &self.level[flow.level]
        cdef Turn turn
        flow.running -= 1
        self.typical += (took - self.typical) // 8
        if self.typical < 1000:
            self.typical = 1000
        flow.start += <double>(took - charged) / flow.weight
        if flow.place >= 0:
            turn = level.heap[flow.place]
            turn.start = flow.start
            if took < charged:
                self._up(level, flow.place, turn)
            else:
                self._down(level, flow.place, turn)
        return self._settle(i)

    # ------------------------------------------------------------------ for the admin API

    def waiting(self):
        """How many wait, by level."""
        return [self.level[i].waiting for i in range(self.levels)]

    def longest(self, int most):
        """(level, name of the tenant, how many wait, how many are under way) of flows; those where most wait first."""
        cdef list found = []
        cdef int i
        for i in range(self.flows_made):
            if self.flows[i].level >= 0 and self.names[i] is not None and (self.flows[i].length or self.flows[i].running):
                found.append((self.flows[i].level, self.names[i], self.flows[i].length, self.flows[i].running))
        found.sort(key=_most)
        return found[:most]

    # ------------------------------------------------------------------ for tests and benchmarks

    def enqueue(self, uint64_t key, int level, int weight, int64_t now, what):
        return self.push(key, None, level, weight, now, what)

    def dequeue(self, int64_t now):
        """(what, flow, charged, shed), or None."""
        cdef bint shed = False
        cdef int level = self.first_level(), w, flow
        cdef int64_t charged
        if level == self.levels:
            return None
        w = self.next(level, now, &shed)
        if shed:
            return self.remove(w), -1, 0, True
        flow = self.go(w)
        what = self.remove(w)
        charged = self.charge(flow)
        return what, flow, charged, False

    def end(self, int flow, int64_t charged, int64_t took):
        self.over(flow, charged, took)

    def take_out(self, int waiter):
        return self.remove(waiter)

    def pushed_out(self, uint64_t key, int level, int weight):
        """The waiter that has to go when another one comes; -1: that other one."""
        return self.victim(key, level, weight)


def _most(flow):
    return -flow[2], -flow[3], flow[0], flow[1]
