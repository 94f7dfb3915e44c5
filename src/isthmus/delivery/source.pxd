import cython

from isthmus.delivery.lane cimport Lane
from isthmus.delivery.outlet cimport Outlet
from isthmus.delivery.plan cimport Plan
from isthmus.delivery.receipt cimport Receipt, Settler, open_receipt
from isthmus.delivery.ring_watch cimport RingWatch
from isthmus.metrics.traffic cimport Traffic
from isthmus.mqtt.connection cimport Connection
from isthmus.net.link cimport Link


cdef class Source(Settler):
    cdef public list _held
    cdef public dict _old_plans
    cdef public object _pause_timer
    cdef public list _pending
    cdef public dict _plans
    cdef public Connection connection
    cdef public object echoes
    cdef public dict entered
    cdef public object hops
    cdef public object ids
    cdef public Lane lane
    cdef public Link link
    cdef public Py_ssize_t max_unacked
    cdef public Py_ssize_t max_unsent
    cdef public object origin
    cdef public bint paused
    cdef public double _work_until
    cdef public Py_ssize_t received
    cdef public dict received_qos2
    cdef public RingWatch ring_watch
    cdef public Traffic traffic
    cdef public Py_ssize_t unacked

    @cython.locals(events=list, now=double)
    cpdef receive(self, bytes data)

    cpdef take(self, list events)

    @cython.locals(
        plans=dict, receipt=Receipt, count=Py_ssize_t, work=Py_ssize_t, fields=tuple, flags=int, topic=bytes,
        packet_id=bytes, properties=bytes, payload=bytes, plan=Plan, outlet=Outlet, lane=Lane,
        size=Py_ssize_t, packets=Py_ssize_t, traffic=Traffic,
    )
    cpdef process(self, list events)

    @cython.locals(
        pending=list, out=list, first=Receipt, link=Link, ids=list, prefix=bytes,
    )
    cpdef settled(self, Receipt receipt)

    cpdef bint _guarded(self, bytes properties)

    cpdef _finish(self, Receipt receipt)

    @cython.locals(plans=dict, old=dict, plan=Plan)
    cpdef Plan _find(self, bytes topic)
