cdef class Plan:
    cdef object __weakref__
    cdef public object children
    cdef public int depth
    cdef public bint made
    cdef public list matched
    cdef public list outlets
    cdef public list parents
    cdef public tuple personal
    cdef public list retaining
    cdef public bint stale
    cdef public set visited
