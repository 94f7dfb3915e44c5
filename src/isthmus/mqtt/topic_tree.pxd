import cython


cdef class _Branch:
    cdef public dict children
    cdef public dict here
    cdef public _Branch plus
    cdef public dict rest

    cpdef bint empty(self)


@cython.locals(
    branches=list, below=list, branch=_Branch, child=_Branch, hidden=bint, level=bytes,
)
cpdef _collect(_Branch root, bytes topic, list found)
