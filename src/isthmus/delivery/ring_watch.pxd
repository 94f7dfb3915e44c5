cimport cython


cdef class RingWatch:
    cdef object _name
    cdef bint _said
    cdef bytes _topic
    cdef bytes _payload
    cdef Py_ssize_t _same
    cdef Py_ssize_t _seconds
    cdef double _until

    @cython.locals(last=tuple, topic=bytes, properties=bytes, payload=bytes)
    cpdef look(self, list events, double now)

    cdef _next_second(self, bytes topic, bytes payload, double now)

    cdef _say(self)
