import cython

from isthmus.delivery cimport framing_c as framing
from isthmus.delivery.lane cimport Lane
from isthmus.delivery.receipt cimport Receipt
from isthmus.metrics.traffic cimport Tally, Traffic
from isthmus.net.link cimport Link


cdef class Outlet:
    cdef public object echo_key
    cdef public object hops
    cdef public bint retains
    cdef public object writer

    cpdef send(self, int flags, bytes properties, bytes payload, Receipt receipt)


cdef class LaneOutlet(Outlet):
    cdef public bytes bare
    cdef public tuple first
    cdef public Lane lane
    cdef public bint memory
    cdef public bytes stamp
    cdef public bytes topic

    @cython.locals(
        lane=Lane, link=Link, first=int, topic=bytes, entries=dict, free=list, packet_id=bytes,
        index=Py_ssize_t, block=bytes, packet=bytes, out=list,
        traffic=Traffic,
    )
    cpdef send(self, int flags, bytes properties, bytes payload, Receipt receipt)


cdef class FanOutlet(Outlet):
    cdef public tuple first
    cdef public list lanes
    cdef public list outlets
    cdef public bytes stamp
    cdef public bytes topic

    @cython.locals(
        first=int, topic=bytes, lane=Lane, link=Link, packet=bytes, v3_packet=bytes,
        v5_packet=bytes, block=bytes, size=Py_ssize_t, v3_size=Py_ssize_t, v5_size=Py_ssize_t, out=list,
        outlet=LaneOutlet, traffic=Traffic,
    )
    cpdef send(self, int flags, bytes properties, bytes payload, Receipt receipt)


cdef class HopsOutlet(Outlet):
    cdef public object guard
    cdef public list outlets

    @cython.locals(outlet=Outlet)
    cpdef send(self, int flags, bytes properties, bytes payload, Receipt receipt)


cdef class CountingOutlet(Outlet):
    cdef public Tally tally

    cpdef send(self, int flags, bytes properties, bytes payload, Receipt receipt)
