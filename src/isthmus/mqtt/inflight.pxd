cdef class Window:
    cdef public int limit
    cdef public dict entries
    cdef public dict releasing
    cdef public list free
    cdef public set reserved
    cdef public int _chunks
    cdef public int _high

    cpdef bytes next_id(self)
