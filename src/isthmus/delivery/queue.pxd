cimport cython

from isthmus.delivery.receipt cimport Receipt


@cython.freelist(64)
cdef class Queued:
    cdef public bytes topic
    cdef public int first
    cdef public bytes properties
    cdef public bytes payload
    cdef public Receipt receipt
    cdef public Py_ssize_t place
    cdef public object expires
    cdef public Py_ssize_t order
    cdef public Py_ssize_t size


cdef class Queue:
    cdef object _items
    cdef Py_ssize_t _returned
    cdef Py_ssize_t _forget_at
    cdef public Py_ssize_t size
    cdef public Py_ssize_t taken

    cpdef append(self, Queued item)
    @cython.locals(item=Queued)
    cpdef Queued popleft(self)
