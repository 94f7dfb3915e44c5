cdef class Traffic:
    cdef public long long answers
    cdef public long long packets_received
    cdef public long long received
    cdef public long long received_bytes
    cdef public long long sent
    cdef public long long sent_bytes


cdef class Tally:
    cdef public Py_ssize_t messages
