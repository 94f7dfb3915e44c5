import cython

from isthmus.store.batch cimport Batch


cdef class Log:
    cdef Batch _batch
    cdef Py_ssize_t _closing
    cdef Py_ssize_t _closing_bytes
    cdef Py_ssize_t _closing_given_up
    cdef Py_ssize_t _count
    cdef set _done
    cdef bint _noted
    cdef dict _moved
    cdef object _places
    cdef Py_ssize_t _size
    cdef list _skipped
    cdef Py_ssize_t _skipped_count
    cdef Py_ssize_t _start
    cdef object _store
    cdef set _taken
    cdef public int begun
    cdef public long long done_below
    cdef public long long id
    cdef public str name
    cdef public long long next
    cdef public object owner
    cdef public Py_ssize_t size
    cdef public long long stored
    cdef public long long trimmed
    cdef public Py_ssize_t given_up
    cdef public Py_ssize_t unrecorded
    cdef public Py_ssize_t unstored_bytes

    @cython.locals(batch=Batch, place=Py_ssize_t, count=Py_ssize_t, size=Py_ssize_t, seq="long long")
    cpdef long long append(self, bytes record)
    @cython.locals(below="long long")
    cpdef done(self, long long seq)
    cpdef bint is_done(self, long long seq)
    cpdef bint is_taken(self, long long seq)
