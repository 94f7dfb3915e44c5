import cython

from isthmus.delivery.receipt cimport Receipt


cdef class Owed:
    cdef long long _end
    cdef Py_ssize_t _holds
    cdef Receipt _receipt
    cdef Py_ssize_t _released
    cdef list _waiting

    cpdef add(self, Receipt receipt, long long seq)
    cpdef close(self)
    @cython.locals(receipt=Receipt, holds=Py_ssize_t)
    cpdef release(self, long long stored)
