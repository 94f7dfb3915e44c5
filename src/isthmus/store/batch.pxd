cdef class Batch:
    cdef public Py_ssize_t appended
    cdef public Py_ssize_t size
    cdef object _ends
    cdef bytes _last
    cdef bytearray _body

    cpdef Py_ssize_t append(self, bytes record)
