cdef class Batch:
    cdef public Py_ssize_t appended
    cdef public Py_ssize_t size
    cdef list _ends
    cdef bytes _last
    cdef list _records

    cpdef Py_ssize_t append(self, bytes record)
