import cython

from isthmus.delivery.lane cimport Lane
from isthmus.delivery.owed cimport Owed
from isthmus.delivery.queue cimport Queued
from isthmus.delivery.receipt cimport Receipt
from isthmus.delivery.record cimport message, record
from isthmus.delivery.stored cimport Stored, stored_at
from isthmus.store.log cimport Log


cdef class Backlog:
    cdef object __weakref__
    cdef bint _asking_age
    cdef set _before_turn
    cdef bint _loading
    cdef bint _rewound
    cdef object _loop
    cdef list _new
    cdef Owed _owed
    cdef public object allowed
    cdef public object barrier
    cdef public long long end
    cdef public long long gate
    cdef public bint is_first
    cdef public Lane lane
    cdef public Log log
    cdef public Py_ssize_t maybe_sent
    cdef public double oldest_at
    cdef public object owner

    cdef long long _write(self, bytes found, Receipt receipt)
    @cython.locals(seq="long long")
    cpdef append(
        self, bytes topic, int first, bytes properties, bytes payload, Receipt receipt,
        object expires,
    )
    @cython.locals(
        lane=Lane, log=Log, at="long long", newest="long long", seq="long long", first="long long",
        ready=list, records=list, found=bytes, item=Queued, stands=Stored,
    )
    cpdef _loaded(self, parts)
    @cython.locals(log=Log, lane=Lane)
    cdef bint _fits_in_memory(self, long long seq)
