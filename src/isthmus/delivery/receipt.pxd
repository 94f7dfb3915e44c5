cimport cython


cdef class Settler:
    cdef public bint bridges
    cdef public bint closed
    cdef public bint takes_back
    cdef public bint v5

    cpdef settled(self, Receipt receipt)


@cython.freelist(256)
cdef class Receipt:
    cdef public Settler source
    cdef public bytes prefix
    cdef public list ids
    cdef public Py_ssize_t holds
    cdef public Py_ssize_t tied
    cdef public dict codes

    cpdef release(self, Py_ssize_t count=*)
    cpdef refuse(self, Py_ssize_t index, int code)


@cython.locals(receipt=Receipt)
cpdef Receipt open_receipt(Settler source, bytes prefix)
