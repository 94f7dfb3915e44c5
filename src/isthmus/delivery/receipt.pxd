cimport cython


@cython.freelist(256)
cdef class Receipt:
    cdef public object source
    cdef public bytes prefix
    cdef public list ids
    cdef public Py_ssize_t holds
    cdef public dict codes

    cpdef release(self, Py_ssize_t count=*)
    cpdef refuse(self, Py_ssize_t index, int code)
