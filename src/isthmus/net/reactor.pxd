import cython

from isthmus.net.link cimport Link, Turn
from isthmus.net cimport socket_calls_c as socket_calls


cdef class Reactor(Turn):
    cdef object __weakref__
    cdef public object loop
    cdef public object poller
    cdef public object wheel
    cdef public bytearray _buffer
    cdef public dict _links
    cdef public dict _sources
    cdef public dict _unreached
    cdef public object _steps
    cdef public list _ending
    cdef public list _dead
    cdef public object _soon
    cdef public object _timer
    cdef public double _timer_at
    cdef public bint _closed
    cdef public int _sharing
    cdef public double _shared_at
    cdef public double _shared_cpu
    cdef public double _unshared
    cdef public double _waited
    cdef public Py_ssize_t _turns
    cdef public Py_ssize_t _events
    cdef public Py_ssize_t _flushes
    cdef public Py_ssize_t _cut
    cdef public Py_ssize_t _failures

    cpdef wake(self)

    @cython.locals(
        fd=object, event=int, links=dict, credit=Py_ssize_t, link=Link, size=Py_ssize_t,
        buffer=bytearray, data=bytes,
    )
    cpdef _read(self, events, double started)

    @cython.locals(link=Link)
    cpdef _flush(self)

    cpdef _finish(self)
