cimport cython

from isthmus.delivery.receipt cimport Receipt
from isthmus.store.log cimport Log


@cython.freelist(256)
cdef class Stored(Receipt):
    cdef public Log log
    cdef public long long seq
    cdef public double at

    cpdef release(self, Py_ssize_t count=*)
    cpdef refuse(self, Py_ssize_t index, int code)


@cython.locals(found=Stored)
cpdef Stored stored_at(Log log, long long seq, double at=*)
