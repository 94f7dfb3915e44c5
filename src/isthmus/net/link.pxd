import cython

from isthmus.net cimport socket_calls_c as socket_calls


cdef class Turn:
    cdef public long long bytes_in
    cdef public long long bytes_out
    cdef public bint in_turn
    cdef public double now
    cdef public list touched

    cpdef wake(self)


cdef class Link:
    cdef object __weakref__
    cdef public object _timer
    cdef public int _mask
    cdef public list _tail
    cdef public Py_ssize_t _tail_offset
    cdef public bint blocked
    cdef public long long bytes_in
    cdef public long long bytes_out
    cdef public bint closed
    cdef public int fd
    cdef public object on_bytes
    cdef public object on_close
    cdef public object on_drained
    cdef public object on_touch
    cdef public list out
    cdef public bint paused
    cdef public object peername
    cdef public Turn reactor
    cdef public object reason
    cdef public object sock
    cdef public Py_ssize_t unsent

    cpdef touch(self)
    cpdef flush(self)

    @cython.locals(sent=Py_ssize_t)
    cpdef _send(self, bytes data)
