import cython

from isthmus.delivery.backlog cimport Backlog
from isthmus.delivery.keeper cimport Keeper
from isthmus.delivery.lane cimport Lane
from isthmus.delivery.logged_ids cimport LoggedIds
from isthmus.delivery.receipt cimport Receipt
from isthmus.store.log cimport Log


cdef class Outbox(Keeper):
    cdef object __weakref__
    cdef int _beginning
    cdef bint _closing
    cdef list _held
    cdef Py_ssize_t _held_bytes
    cdef list _inherited
    cdef Lane _lane
    cdef object _loop
    cdef bint _looks_again
    cdef bytes _probe
    cdef double _probed_at
    cdef bint _resumed
    cdef double _slow_at
    cdef object _timer
    cdef str _when_full
    cdef public Backlog backlog
    cdef public object pace
    cdef public LoggedIds ids
    cdef public Log log
    cdef public bint logged
    cdef public Py_ssize_t max_bytes
    cdef public long long max_messages
    cdef public double spill_after_s
    cdef public object trust

    cpdef bint takes(self, int first, Receipt receipt)
    @cython.locals(lane=Lane, log=Log)
    cpdef append(
        self, bytes topic, int first, bytes properties, bytes payload, Receipt receipt
    )
    @cython.locals(log=Log)
    cdef bint _full(self)
